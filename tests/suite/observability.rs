//! The alerts and the dashboard of `observability/`: a real Prometheus reads the metrics of a gateway.

use std::{collections::BTreeSet, fs, net::SocketAddr};

use anyhow::{Context, ensure};
use harness::{
    child::{ChildServer, free_address, root},
    gateway::{Plan, Role, Setup},
    http::plain_client,
    scripted::{Reply, ScriptedServer, failing_until},
    wait,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;
use url::Url;

const RULES: &str = "observability/prometheus/rules.yaml";

fn read(path: &str) -> anyhow::Result<String> {
    fs::read_to_string(root().join(path)).with_context(|| path.to_owned())
}

/// A Prometheus with our rules that scrapes one gateway. An alert fires once its condition has held for a
/// second.
struct Prometheus {
    server: ChildServer,
    client: reqwest::Client,
    _folder: TempDir,
}

impl Prometheus {
    async fn start(target: SocketAddr) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let rules = read(RULES)?;
        let rules: Vec<_> = rules.lines().map(without_delay).collect();
        fs::write(folder.path().join("rules.yaml"), rules.join("\n"))?;
        let config = format!(
            "global: {{scrape_interval: 2s, evaluation_interval: 1s}}\n\
             rule_files: [rules.yaml]\n\
             scrape_configs:\n\
             \x20 - job_name: roundtrip\n\
             \x20   static_configs: [{{targets: ['{target}'], labels: {{component: all}}}}]\n"
        );
        let file = folder.path().join("prometheus.yml");
        fs::write(&file, config)?;
        let address = free_address()?;
        let mut command = Command::new(root().join(".servers/prometheus/prometheus"));
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}/data",
                folder.path().display()
            ))
            .arg(format!("--web.listen-address={address}"));
        Ok(Self {
            server: ChildServer::start(command, address).await?,
            client: plain_client()?,
            _folder: folder,
        })
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> anyhow::Result<Value> {
        let url = Url::parse_with_params(&self.server.url(path), query)?;
        let body = self.client.get(url).send().await?.text().await?;
        let answer: Value = serde_json::from_str(&body).with_context(|| body.clone())?;
        ensure!(answer["status"] == "success", "{query:?}: {body}");
        Ok(answer["data"].clone())
    }

    /// Whether an expression returns a series; an expression that Prometheus refuses is an error.
    async fn has_series(&self, expression: &str) -> anyhow::Result<bool> {
        let data = self.get("/api/v1/query", &[("query", expression)]).await?;
        Ok(data["result"].as_array().is_some_and(|all| !all.is_empty()))
    }

    /// Waits until an expression returns a series.
    async fn until(&self, expression: &str) -> anyhow::Result<()> {
        wait::until(format!("{expression} to return a series"), async || {
            let has_series = self.has_series(expression).await;
            has_series.ok()?.then_some(())
        })
        .await
    }

    async fn until_fires(&self, alert: &str) -> anyhow::Result<()> {
        let firing = format!("ALERTS{{alertname=\"{alert}\",alertstate=\"firing\"}}");
        self.until(&firing).await
    }

    /// Every rule, once each has been evaluated.
    async fn rules(&self) -> anyhow::Result<Vec<Value>> {
        wait::until("the rules to be evaluated", async || {
            let data = self.get("/api/v1/rules", &[]).await.ok()?;
            let groups = data["groups"].as_array()?;
            let rules = groups.iter().filter_map(|group| group["rules"].as_array());
            let rules: Vec<Value> = rules.flatten().cloned().collect();
            let is_evaluated = |rule: &Value| rule["health"] != "unknown";
            (!rules.is_empty() && rules.iter().all(is_evaluated)).then_some(rules)
        })
        .await
    }
}

/// A line of the rules; an alert's delay becomes a second.
fn without_delay(line: &str) -> String {
    match line.split_once("for: ") {
        Some((indent, _)) if indent.trim().is_empty() => format!("{indent}for: 1s"),
        _ => line.to_owned(),
    }
}

/// The expressions of the dashboard, as Grafana sends them.
fn dashboard() -> anyhow::Result<Vec<String>> {
    let dashboard: Value = serde_json::from_str(&read("observability/grafana/gateway.json")?)?;
    let panels = dashboard["panels"].as_array().context("no panels")?;
    let targets = panels
        .iter()
        .filter_map(|panel| panel["targets"].as_array());
    let expressions = targets.flatten().map(|target| {
        let expression = target["expr"].as_str().context("no expression")?;
        Ok(expression.replace("$__rate_interval", "1m"))
    });
    expressions.collect()
}

/// The selectors in an expression that have labels, such as `up{job="roundtrip"}`.
fn selectors(expression: &str) -> impl Iterator<Item = String> {
    let parts = expression.match_indices('{').filter_map(|(start, _)| {
        let (before, after) = expression.split_at(start);
        let is_name = |letter: char| letter.is_ascii_alphanumeric() || "_:".contains(letter);
        let name = before.rsplit(|letter| !is_name(letter)).next()?;
        let labels = after.split_inclusive('}').next()?;
        Some(format!("{name}{labels}"))
    });
    parts.collect::<Vec<_>>().into_iter()
}

/// What this gateway has no series of: it has no RabbitMQ, no message is next in a queue, no response is a
/// 5xx, and no certificate or key ends.
fn may_be_missing(expression: &str) -> bool {
    ["roundtrip_rabbitmq", "head_age", "status=~", "_expiry_"]
        .iter()
        .any(|part| expression.contains(part))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_prometheus_evaluates_every_expression_and_fires_the_alerts_of_outages()
-> anyhow::Result<()> {
    let plan = Plan::new(Setup::Embedded)?
        .env("ROUNDTRIP__DISPATCHER__BREAKER__FAILURES", 2)
        .env("ROUNDTRIP__DISPATCHER__BREAKER__WAIT", "10m")
        .env("ROUNDTRIP__DISPATCHER__BREAKER__MAX_WAIT", "10m");
    let answering = |_: &_| Reply::answering("1");
    let (mut gateway, channel, sessions) = plan.start_with_servers(answering).await?;
    let refusing = ScriptedServer::start(|_| Reply::status(422)).await?;
    let recovered = CancellationToken::new();
    let failing = ScriptedServer::start(failing_until(&recovered, Reply::status(500))).await?;
    gateway.register("refusing", &refusing.url()).await?;
    gateway.register("failing", &failing.url()).await?;
    let target = gateway.process(Role::All)?.program().operations;
    let prometheus = Prometheus::start(target).await?;
    prometheus.until("up{job=\"roundtrip\"} == 1").await?;

    gateway.send_many("c", 3).await?;
    gateway.send_many("refusing", 20).await?;
    gateway.send_many("failing", 4).await?;
    sessions.taken_at_least(3).await?;
    prometheus.until_fires("RoundtripDeadLettersGrow").await?;
    prometheus.until_fires("RoundtripBreakerOpen").await?;

    let rules = prometheus.rules().await?;
    let mut expressions = dashboard()?;
    for rule in &rules {
        let (name, error) = (&rule["name"], &rule["lastError"]);
        ensure!(rule["health"] == "ok", "{name}: {error}");
        let expression = rule["query"].as_str().context("no expression")?;
        if rule["type"] == "recording" {
            expressions.push(expression.to_owned());
        }
        expressions.extend(selectors(expression));
    }
    for expression in &expressions {
        if may_be_missing(expression) {
            prometheus.has_series(expression).await?;
        } else {
            prometheus.until(expression).await?;
        }
    }

    gateway.until_waiting("failing", 4).await?;
    gateway.stop(Role::All).await?;
    prometheus.until_fires("RoundtripTargetDown").await?;
    prometheus.until_fires("RoundtripComponentDown").await?;
    recovered.cancel();
    gateway.process(Role::All)?.restart().await?;
    let has_ended = "absent(ALERTS{alertname=\"RoundtripTargetDown\"})";
    prometheus.until(has_ended).await?;
    gateway
        .post("/channel/failing/retry", "")
        .await?
        .expect(200)?;
    failing.taken_at_least(4).await?;
    let servers = [&channel, &sessions, &refusing, &failing];
    gateway.finish(&servers).await.map(drop)
}

#[test]
fn every_metric_of_the_alerts_and_the_dashboard_is_documented() -> anyhow::Result<()> {
    let tests = read("observability/prometheus/rules.test.yaml")?;
    let text = [dashboard()?.join("\n"), read(RULES)?, tests].join("\n");
    let page = read("docs/metrics.md")?;
    let is_name = |letter: char| letter.is_ascii_lowercase() || "_:".contains(letter);
    let names = text.split(|letter| !is_name(letter)).filter(|name| {
        let is_ours = name.starts_with("roundtrip_") || name.starts_with("process_");
        is_ours && !name.contains(':')
    });
    let names: BTreeSet<&str> = names.collect();
    assert!(!names.is_empty());
    for name in names {
        let parts = ["_bucket", "_sum", "_count", ""];
        let of = parts.iter().filter_map(|part| name.strip_suffix(part));
        let is_documented = of
            .into_iter()
            .any(|of| page.contains(&format!("\n| `{of}` |")));
        assert!(is_documented, "{name}");
    }
    Ok(())
}

#[test]
fn every_alert_has_its_entry_for_the_one_on_call_and_its_tests() -> anyhow::Result<()> {
    let (rules, tests) = (
        read(RULES)?,
        read("observability/prometheus/rules.test.yaml")?,
    );
    let guide = read("docs/operations.md")?;
    let entries: BTreeSet<&str> = guide
        .lines()
        .filter_map(|line| line.strip_prefix("### "))
        .filter(|title| title.starts_with("Roundtrip"))
        .collect();
    let alerts: BTreeSet<&str> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    assert_eq!(alerts, entries);
    for alert in alerts {
        let anchor = format!("docs/operations.md#{}\n", alert.to_lowercase());
        assert!(rules.contains(&anchor), "{alert} has no runbook");
        assert!(
            tests.contains(&format!("\"{alert}\"")),
            "{alert} has no test"
        );
    }
    Ok(())
}
