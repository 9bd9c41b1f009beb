//! `roundtrip send --batch`: the messages of a file, many in one call.
//!
//! Invariant: a call is repeated only if that sends no message twice: nothing was enqueued, or the
//! call has an idempotency key.

use std::{
    io::{BufRead, Read},
    path::Path,
    time::{Duration, Instant},
};

use indicatif::ProgressBar;
use reqwest::header::HeaderName;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use tokio::time::sleep;

use crate::{
    api::{Api, Call, NDJSON, not_ours},
    failure::Failure,
    input::{self, MAX_DOCUMENT_BYTES},
    problem::Problem,
    screen::{Screen, complain, document, note, pairs},
};

pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The most messages of one call, as the API bounds them.
const MAX_MESSAGES: usize = 1000;
/// A call ends with the message that reaches this size. A longer message goes alone.
const BATCH_BYTES: usize = 4 << 20;
/// How often a call is made in all.
const MAX_TRIES: u32 = 6;
/// The longest wait between two tries.
const MAX_RETRY_WAIT: Duration = Duration::from_secs(30);
/// The wait if the gateway names none.
const RETRY_WAIT: Duration = Duration::from_secs(2);
/// The most rejected messages that are shown.
const MAX_SHOWN: u64 = 20;

const BAR: &str = "{msg} [{bar:30}] {percent}%, {eta} left";
/// For standard input, whose length is not known.
const SPINNER: &str = "{spinner} {msg}";

#[derive(Deserialize)]
struct Results {
    results: Vec<Box<RawValue>>,
}

#[derive(Default)]
struct Totals {
    accepted: u64,
    rejected: u64,
}

impl Totals {
    const fn sent(&self) -> u64 {
        self.accepted + self.rejected
    }
}

/// The messages of one call.
#[derive(Default)]
struct Chunk {
    body: String,
    /// The number of each message's line, from 1.
    lines: Vec<u64>,
}

pub(super) async fn send(
    api: &Api,
    screen: Screen,
    path: &Path,
    key: Option<&str>,
) -> Result<(), Failure> {
    let (mut file, length) = input::open(path)?;
    let bar = screen.bar(length, if length.is_some() { BAR } else { SPINNER });
    let began = Instant::now();
    let (mut totals, mut line) = (Totals::default(), 0);
    while let Some((chunk, bytes)) = next(&mut file, path, &mut line)? {
        let call = || {
            let call = Call::post(&["channel", "messages"]).body(NDJSON, chunk.body.clone());
            match (key, chunk.lines.first()) {
                // A repeat of the file makes the same calls.
                (Some(key), Some(first)) => call.header(IDEMPOTENCY_KEY, format!("{key}/{first}")),
                _ => call,
            }
        };
        let results = match repeated(api, call, key.is_some()).await {
            Ok(results) => results,
            Err(failure) => {
                bar.abandon();
                stopped(&chunk, &totals, &failure, key.is_some());
                return Err(failure);
            }
        };
        for (result, line) in results.iter().zip(&chunk.lines) {
            take(screen, &bar, result, *line, &mut totals)?;
        }
        bar.inc(bytes);
        bar.set_message(format!(
            "{} sent, {:.0}/s",
            totals.sent(),
            rate(&totals, began)
        ));
    }
    bar.finish_and_clear();
    if !screen.is_json() {
        let seconds = format!("{:.1}", began.elapsed().as_secs_f64()).into();
        screen.table(&pairs([
            ("accepted", &totals.accepted.into()),
            ("rejected", &totals.rejected.into()),
            ("seconds", &seconds),
            ("per_second", &format!("{:.0}", rate(&totals, began)).into()),
        ]))?;
    }
    let hidden = totals.rejected.saturating_sub(MAX_SHOWN);
    if hidden > 0 && !screen.is_json() {
        note(&format!(
            "{hidden} more are not shown; --output json prints each result"
        ));
    }
    if totals.rejected > 0 {
        let (rejected, sent) = (totals.rejected, totals.sent());
        let problem = format!("{rejected} of {sent} messages were rejected");
        return Err(Failure::Failed(problem));
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn rate(totals: &Totals, began: Instant) -> f64 {
    totals.sent() as f64 / began.elapsed().as_secs_f64().max(f64::EPSILON)
}

/// Reads the messages of the next call, and how many bytes of the file they took. `None` at its end.
fn next(
    file: &mut impl BufRead,
    path: &Path,
    line: &mut u64,
) -> Result<Option<(Chunk, u64)>, Failure> {
    let (mut chunk, mut bytes) = (Chunk::default(), 0);
    while chunk.lines.len() < MAX_MESSAGES && chunk.body.len() < BATCH_BYTES {
        let before = chunk.body.len();
        // One byte more than the longest line may have.
        let mut longest = file.by_ref().take(MAX_DOCUMENT_BYTES + 1);
        let read = longest.read_line(&mut chunk.body);
        let read = read.map_err(|error| input::failed(path, &error))? as u64;
        if read == 0 {
            break;
        }
        *line += 1;
        bytes += read;
        if read > MAX_DOCUMENT_BYTES {
            let problem = format!("line {line} is longer than {MAX_DOCUMENT_BYTES} bytes");
            return Err(Failure::Failed(problem));
        }
        if chunk.body[before..].trim().is_empty() {
            chunk.body.truncate(before);
        } else {
            if !chunk.body.ends_with('\n') {
                chunk.body.push('\n');
            }
            chunk.lines.push(*line);
        }
    }
    Ok((!chunk.lines.is_empty()).then_some((chunk, bytes)))
}

/// Makes a call, again after a temporary failure if that sends nothing twice. With a key that is so
/// for the failure of a single message too.
async fn repeated(
    api: &Api,
    call: impl Fn() -> Call,
    has_key: bool,
) -> Result<Vec<Box<RawValue>>, Failure> {
    let mut tries = 1;
    loop {
        let is_last = tries == MAX_TRIES;
        let wait = match api.call(call()).await {
            Ok(reply) => {
                let read = serde_json::from_str(&reply.body);
                let Results { results } = read.map_err(|_error| not_ours())?;
                if is_last || !has_key || !results.iter().any(|result| is_temporary(result)) {
                    return Ok(results);
                }
                RETRY_WAIT
            }
            Err(failure) => {
                let is_safe = has_key || failure.is_without_effect();
                if is_last || !is_safe || !failure.is_temporary() {
                    return Err(failure);
                }
                match &failure {
                    Failure::Problem(problem) => problem.retry_after.unwrap_or(RETRY_WAIT),
                    _ => RETRY_WAIT,
                }
            }
        };
        tries += 1;
        sleep(wait.min(MAX_RETRY_WAIT)).await;
    }
}

/// Whether this is the result of a message that may be accepted later.
fn is_temporary(result: &RawValue) -> bool {
    let problem = serde_json::from_str::<Problem>(result.get());
    problem.is_ok_and(|problem| problem.is_temporary())
}

/// Takes a message's result in.
fn take(
    screen: Screen,
    bar: &ProgressBar,
    result: &RawValue,
    line: u64,
    totals: &mut Totals,
) -> Result<(), Failure> {
    if screen.is_json() {
        document(result.get())?;
    }
    let value: Value = serde_json::from_str(result.get()).map_err(|_error| not_ours())?;
    if value["success"] == true {
        totals.accepted += 1;
        return Ok(());
    }
    totals.rejected += 1;
    if !screen.is_json() && totals.rejected <= MAX_SHOWN {
        let status = value["status"]
            .as_u64()
            .and_then(|status| status.try_into().ok());
        let problem = Problem::of(status.unwrap_or_default(), "", result.get(), None);
        bar.suspend(|| complain(&format!("line {line}: {problem}")));
    }
    Ok(())
}

/// Says what was sent before a call failed.
fn stopped(chunk: &Chunk, totals: &Totals, failure: &Failure, has_key: bool) {
    let first = chunk.lines.first().copied().unwrap_or_default();
    let last = chunk.lines.last().copied().unwrap_or_default();
    let accepted = totals.accepted;
    note(&match () {
        () if has_key => format!(
            "{accepted} messages were accepted before; the same command with the same \
             --idempotency-key goes on and sends nothing twice"
        ),
        () if failure.is_without_effect() => {
            format!("{accepted} messages were accepted before; none from line {first} on was sent")
        }
        () => format!(
            "{accepted} messages were accepted before; those of the lines {first} to {last} may \
             have been, and no later one was; with --idempotency-key a repeat sends nothing twice"
        ),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(text: &str) -> Vec<(usize, u64)> {
        let (mut file, mut line) = (text.as_bytes(), 0);
        let mut chunks = Vec::new();
        while let Some((chunk, _)) = next(&mut file, Path::new("f"), &mut line).unwrap() {
            assert_eq!(chunk.body.lines().count(), chunk.lines.len());
            chunks.push((chunk.lines.len(), chunk.lines[0]));
        }
        chunks
    }

    #[test]
    fn a_single_message_may_fail_for_a_moment() {
        for (result, expected) in [
            (r#"{"success": true, "message_id": "msg_1"}"#, false),
            (r#"{"success": false, "title": "t", "status": 503}"#, true),
            (r#"{"success": false, "title": "t", "status": 422}"#, false),
        ] {
            let result: Box<RawValue> = serde_json::from_str(result).unwrap();
            assert_eq!(is_temporary(&result), expected, "{result}");
        }
    }

    #[test]
    fn a_call_has_as_many_messages_as_the_api_takes() {
        assert_eq!(
            chunks(&"{}\n".repeat(2500)),
            [(1000, 1), (1000, 1001), (500, 2001)]
        );
        assert_eq!(chunks(""), []);
    }

    #[test]
    fn empty_lines_are_left_out_and_counted() {
        assert_eq!(chunks("\n  \n{}\r\n\n{}"), [(2, 3)]);
    }

    #[test]
    fn a_call_ends_with_its_size() {
        let long = format!("{}\n", "x".repeat(BATCH_BYTES));
        assert_eq!(chunks(&format!("{{}}\n{long}{{}}\n")), [(2, 1), (1, 3)]);
    }
}
