use roundtrip_broker::Queue;
use roundtrip_doubles::FakeBroker;
use roundtrip_model::{
    CallbackId, DeadReason, Entry, EntryId, Event, MessageId, MessageKind, SystemClock,
    decision::DeadKind, journal::Content,
};
use roundtrip_store::{AnswerFilter, Config, DeadFilter, DeadLetter, DeadQueue, MessageFilter};
use serde_json::value::RawValue;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use super::*;

/// The broker's limit on the bytes of a message.
const LIMIT: usize = 1000;

/// The dead letter of an answer. The ids are in the order of the numbers.
fn letter(number: u8, bytes: usize) -> DeadLetter {
    let now = SystemClock.now();
    DeadLetter {
        dead_id: format!("cb_{number}.0"),
        queue: DeadQueue::Callbacks,
        webhook_id: format!("cb_{number}"),
        message_id: Some(MessageId::generate()),
        channel_id: Some("c".parse().unwrap()),
        session_id: Some("s".parse().unwrap()),
        reason: DeadReason::new(DeadKind::AttemptsExhausted, ""),
        attempts: 1,
        replay_count: 0,
        accepted_at: now,
        dead_at: now - Duration::from_secs(1),
        body: vec![b'x'; bytes].into(),
        contents_erased_at: None,
    }
}

/// Replays that have ended.
struct Ended {
    _folder: TempDir,
    store: SharedStore,
    replayed: u64,
    skipped: u64,
    skips: Vec<Skip>,
    accepted: Vec<String>,
    journal_publishes: usize,
}

async fn open(folder: &TempDir) -> SharedStore {
    let config = Config {
        url: format!("sqlite:{}", folder.path().join("store.db").display()),
        ..Config::default()
    };
    roundtrip_store::open(&config).await.unwrap()
}

/// Replays these letters by so many replays of all letters.
async fn replay(letters: &[DeadLetter], replays: usize) -> Ended {
    let folder = TempDir::new().unwrap();
    let store = open(&folder).await;
    store.insert(letters).await.unwrap();
    let all = ReplaySource::DeadLetters(DeadFilter::default());
    run(folder, store, all, replays).await
}

/// Runs so many equal replays.
async fn run(folder: TempDir, store: SharedStore, source: ReplaySource, replays: usize) -> Ended {
    let replay_ids: Vec<_> = (0..replays).map(|_| ReplayId::generate()).collect();
    run_these(folder, store, source, &replay_ids).await
}

/// Runs equal replays with these ids.
async fn run_these(
    folder: TempDir,
    store: SharedStore,
    source: ReplaySource,
    replay_ids: &[ReplayId],
) -> Ended {
    for replay_id in replay_ids {
        let replay = Replay {
            replay_id: *replay_id,
            requested_by: String::new(),
            source: source.clone(),
            rate_per_second: None,
            status: ReplayStatus::Running,
            matched: 0,
            progress: Progress::default(),
            created_at: SystemClock.now(),
            ended_at: None,
        };
        store.create_replay(&replay).await.unwrap();
    }

    let broker = Arc::new(FakeBroker::new(Queue::Callbacks));
    broker.limit_bytes(LIMIT);
    let shared: SharedBroker = Arc::clone(&broker) as _;
    let journal = Journal::start(Arc::clone(&shared));
    let replayer = Replayer::new(shared, Arc::clone(&store), journal, Arc::new(SystemClock));
    let stop = CancellationToken::new();
    let ended = async {
        let (mut replayed, mut skipped, mut skips) = (0, 0, Vec::new());
        for replay_id in replay_ids {
            let progress = loop {
                let replay = store.replay(replay_id).await.unwrap().unwrap();
                if replay.status == ReplayStatus::Done {
                    break replay.progress;
                }
                sleep(Duration::from_millis(10)).await;
            };
            replayed += progress.replayed;
            skipped += progress.skipped;
            skips.extend(progress.skips);
        }
        (replayed, skipped, skips)
    };
    let (replayed, skipped, skips) = tokio::select! {
        () = replayer.run(&stop) => panic!("it runs until it is stopped"),
        ended = timeout(Duration::from_mins(1), ended) => ended.expect("the replays end"),
    };
    // A page is published at once, in any order.
    let mut accepted = broker.taken();
    accepted.sort();
    Ended {
        _folder: folder,
        store,
        replayed,
        skipped,
        skips,
        accepted,
        journal_publishes: broker.messages(Queue::Journal).len(),
    }
}

#[tokio::test]
async fn a_letter_over_the_brokers_limit_is_skipped_and_stops_no_other() {
    let ended = replay(
        &[letter(1, LIMIT), letter(2, LIMIT + 1), letter(3, LIMIT)],
        1,
    )
    .await;
    assert_eq!((ended.replayed, ended.skipped), (2, 1));
    assert_eq!(ended.accepted, ["cb_1", "cb_3"]);
    let left = DeadFilter {
        ids: Some(vec!["cb_2".to_owned()]),
        ..DeadFilter::default()
    };
    assert_eq!(ended.store.count_dead_letters(&left).await.unwrap(), 1);
}

#[tokio::test]
async fn the_journal_entries_of_a_page_do_not_wait_for_each_other() {
    const LETTERS: u8 = 50;
    let letters: Vec<_> = (100..100 + LETTERS)
        .map(|number| letter(number, 1))
        .collect();
    let ended = replay(&letters, 1).await;
    assert_eq!(ended.accepted.len(), usize::from(LETTERS));
    // One after the other, each entry would be a publish of its own.
    assert!(ended.journal_publishes < usize::from(LETTERS) / 2);
}

#[tokio::test]
async fn replays_whose_filters_overlap_put_a_letter_back_once() {
    let letters: Vec<_> = (100..200).map(|number| letter(number, 1)).collect();
    let ended = replay(&letters, AT_ONCE).await;
    let expected: Vec<_> = letters
        .into_iter()
        .map(|letter| letter.webhook_id)
        .collect();
    assert_eq!(ended.accepted, expected);
    assert_eq!((ended.replayed, ended.skipped), (100, 0));
}

/// An entry of an answer to this message, or to none.
fn of_answer(message_id: Option<MessageId>, event: Event) -> Entry {
    Entry {
        entry_id: EntryId::generate(),
        message_id,
        channel_id: message_id.and_then(|_| "c".parse().ok()),
        session_id: "s".parse().unwrap(),
        kind: MessageKind::Outbound,
        replay_count: 0,
        at: SystemClock.now() - Duration::from_secs(1),
        event,
    }
}

/// An attempt to deliver, as its journal entry has it.
fn attempted(next: &str) -> Event {
    serde_json::from_str(&format!(
        r#"{{"attempted": {{"attempt": 1, "status": 404, "duration_ms": 1, "excerpt": "", "next": {next}}}}}"#
    ))
    .unwrap()
}

#[rstest::rstest]
#[case::retried(r#"{"retry": {"wait_ms": 1}}"#, 0)]
#[case::accepted(r#""arrived""#, 1)]
#[tokio::test]
async fn an_answered_message_is_replayed_only_after_its_delivery(
    #[case] next: &str,
    #[case] replayed: u64,
) {
    let folder = TempDir::new().unwrap();
    let store = open(&folder).await;
    let message_id = MessageId::generate();
    let content = Content {
        message: RawValue::from_string("1".to_owned()).unwrap(),
        response_url: "http://localhost/".to_owned(),
        answer_within_ms: None,
    };
    let answered = Event::Answered {
        callback_id: CallbackId::generate(),
        content: None,
    };
    let at = SystemClock.now() - Duration::from_secs(1);
    let entries = [
        Event::Accepted(Some(Box::new(content))),
        attempted(next),
        answered,
    ];
    let entries = entries.map(|event| Entry {
        entry_id: EntryId::generate(),
        message_id: Some(message_id),
        channel_id: "c".parse().ok(),
        session_id: "s".parse().unwrap(),
        kind: MessageKind::Outbound,
        replay_count: 0,
        at,
        event,
    });
    store.record(&entries).await.unwrap();
    let filter = MessageFilter {
        channel: Some("c".parse().unwrap()),
        ..MessageFilter::default()
    };
    let ended = run(folder, store, ReplaySource::Messages(filter), 1).await;
    assert_eq!((ended.replayed, ended.skipped), (replayed, 1 - replayed));
}

/// An attempt to forward an answer, as its journal entry has it.
fn forwarded(callback_id: CallbackId, next: &str) -> Event {
    serde_json::from_str(&format!(
        r#"{{"forward_attempted": {{"callback_id": "{callback_id}", "attempt": {{
            "attempt": 1, "status": 200, "duration_ms": 1, "excerpt": "", "next": {next}}}}}}}"#
    ))
    .unwrap()
}

const WHOLE: &str = r#"{"response_data": 1}"#;
const TRUNCATED: &str = r#"{"truncated_response_data": {"head": "1", "bytes": 9}}"#;
const RETRY: &str = r#"{"retry": {"wait_ms": 1}}"#;
const DEAD: &str = r#"{"dead": {"kind": "refused", "detail": "400"}}"#;

#[rstest::rstest]
#[case::forwarded(WHOLE, Some(r#""arrived""#), None)]
#[case::dead(WHOLE, Some(DEAD), None)]
#[case::retried(WHOLE, Some(RETRY), Some(SkipReason::UnderWay))]
#[case::never_attempted(WHOLE, None, Some(SkipReason::UnderWay))]
#[case::truncated(TRUNCATED, Some(r#""arrived""#), Some(SkipReason::ContentTruncated))]
#[tokio::test]
async fn an_answer_is_replayed_if_it_is_whole_and_not_under_way(
    #[case] content: &str,
    #[case] next: Option<&str>,
    #[case] reason: Option<SkipReason>,
) {
    for message_id in [None, Some(MessageId::generate())] {
        let folder = TempDir::new().unwrap();
        let store = open(&folder).await;
        let callback_id = CallbackId::generate();
        let answered = Event::Answered {
            callback_id,
            content: serde_json::from_str(content).unwrap(),
        };
        let events = [
            Some(answered),
            next.map(|next| forwarded(callback_id, next)),
        ];
        let entries = events.into_iter().flatten();
        let entries: Vec<_> = entries.map(|event| of_answer(message_id, event)).collect();
        store.record(&entries).await.unwrap();
        let source = ReplaySource::Answers(AnswerFilter {
            session: "s".parse().ok(),
            ..AnswerFilter::default()
        });
        let ended = run(folder, store, source, 1).await;
        let expected = if reason.is_none() {
            vec![callback_id.to_string()]
        } else {
            Vec::new()
        };
        assert_eq!(ended.accepted, expected);
        assert_eq!(ended.replayed, expected.len() as u64);
        let skips = reason.map(|reason| Skip {
            id: callback_id.to_string(),
            reason,
        });
        assert_eq!(ended.skips, Vec::from_iter(skips));
    }
}

#[tokio::test]
async fn an_answer_that_the_same_replay_published_before_a_crash_is_counted_and_not_sent() {
    for message_id in [None, Some(MessageId::generate())] {
        let folder = TempDir::new().unwrap();
        let store = open(&folder).await;
        let callback_id = CallbackId::generate();
        let replay_id = ReplayId::generate();
        let answered = Event::Answered {
            callback_id,
            content: serde_json::from_str(WHOLE).unwrap(),
        };
        let replayed = Event::Replayed {
            replay_id,
            callback_id: Some(callback_id),
        };
        let entries = [answered, replayed].map(|event| of_answer(message_id, event));
        store.record(&entries).await.unwrap();
        let source = ReplaySource::Answers(AnswerFilter::default());
        let ended = run_these(folder, store, source, &[replay_id]).await;
        assert_eq!((ended.replayed, ended.skipped), (1, 0));
        assert_eq!(ended.accepted, [""; 0]);
    }
}
