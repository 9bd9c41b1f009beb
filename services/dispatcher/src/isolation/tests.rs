use super::*;

const RULES: Rules = Rules {
    slots: 8,
    max_in_flight: 2,
    paused_park: Duration::from_secs(30),
    breaker: BreakerConfig {
        failures: 2,
        wait: Duration::from_secs(2),
        max_wait: Duration::from_mins(2),
        probes: 1,
    },
};

fn channel(name: &str) -> ChannelId {
    name.parse().unwrap()
}

fn gate() -> Gate {
    Gate::new(RULES)
}

async fn enter(gate: &Gate, name: &str) -> Result<Pass, Parked> {
    gate.enter(&channel(name), &DeliverySettings::default())
        .await
}

async fn enter_twice(gate: &Gate, name: &str) -> (Pass, Pass) {
    (
        enter(gate, name).await.unwrap(),
        enter(gate, name).await.unwrap(),
    )
}

#[tokio::test(start_paused = true)]
async fn one_too_many_waits_for_another_to_end() {
    let gate = gate();
    let (first, _second) = enter_twice(&gate, "c").await;
    let (third, ()) = tokio::join!(enter(&gate, "c"), async { first.end(Signal::Alive) });
    assert!(third.is_ok());
}

#[tokio::test(start_paused = true)]
async fn one_too_many_is_put_aside_when_none_ends() {
    let gate = gate();
    let _under_way = enter_twice(&gate, "c").await;
    let begin = Instant::now();
    let parked = enter(&gate, "c").await.unwrap_err();
    assert_eq!(parked.obstacle, Obstacle::Saturated);
    assert_eq!(begin.elapsed(), lane::PATIENCE);
}

#[tokio::test(start_paused = true)]
async fn behind_a_channel_that_hangs_nobody_waits() {
    let gate = gate();
    let _under_way = enter_twice(&gate, "c").await;
    tokio::time::advance(Duration::from_secs(1)).await;
    let begin = Instant::now();
    assert!(enter(&gate, "c").await.is_err());
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_hangs_takes_nothing_from_another() {
    let gate = gate();
    let _under_way = enter_twice(&gate, "hangs").await;
    tokio::time::advance(Duration::from_secs(1)).await;
    for _ in 0..100 {
        assert!(enter(&gate, "hangs").await.is_err());
        enter(&gate, "well").await.unwrap().end(Signal::Alive);
    }
}

#[tokio::test(start_paused = true)]
async fn a_pass_that_is_dropped_is_given_back() {
    let gate = gate();
    for _ in 0..100 {
        drop(enter(&gate, "c").await.unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_waited_and_went_away_keeps_nothing() {
    let gate = gate();
    let (first, second) = enter_twice(&gate, "c").await;
    let impatient = timeout(Duration::from_millis(1), enter(&gate, "c")).await;
    assert!(impatient.is_err());
    first.end(Signal::Alive);
    second.end(Signal::Alive);
    let _both = enter_twice(&gate, "c").await;
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_learn_at_once_that_the_breaker_opened() {
    let gate = gate();
    let (first, second) = enter_twice(&gate, "c").await;
    let begin = Instant::now();
    let (third, ()) = tokio::join!(enter(&gate, "c"), async {
        first.end(Signal::Failing);
        second.end(Signal::Failing);
    });
    // The one whose turn came with the first failure may go; the breaker opened after it.
    drop(third);
    assert_eq!(begin.elapsed(), Duration::ZERO);
    let parked = enter(&gate, "c").await.unwrap_err();
    assert_eq!(parked.obstacle, Obstacle::Open);
}

#[tokio::test(start_paused = true)]
async fn the_channels_own_settings_count() {
    let gate = gate();
    let settings = DeliverySettings {
        max_in_flight: Some(1),
        ..DeliverySettings::default()
    };
    let _pass = gate.enter(&channel("c"), &settings).await.unwrap();
    assert!(gate.enter(&channel("c"), &settings).await.is_err());
    let paused = DeliverySettings {
        paused: true,
        ..DeliverySettings::default()
    };
    let parked = gate.enter(&channel("other"), &paused).await.unwrap_err();
    assert_eq!(parked.obstacle, Obstacle::Paused);
}
