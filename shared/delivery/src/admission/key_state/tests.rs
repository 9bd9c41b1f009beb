use proptest::prelude::*;
use rstest::rstest;

use super::*;

const LIMITS: Limits = Limits {
    max_in_flight: 64,
    rate_per_second: None,
    paused: false,
};
const BREAKER: BreakerConfig = BreakerConfig {
    failures: 3,
    wait: Duration::from_secs(2),
    max_wait: Duration::from_mins(2),
    probes: 1,
};
const PAUSED_SNOOZE: Duration = Duration::from_secs(30);

fn key_state(limits: Limits, now: Instant) -> KeyState {
    KeyState::new(limits, BREAKER, now)
}

const fn slots(total: usize, used: usize) -> Slots {
    Slots { total, used }
}

/// With this cap, and no other limit.
const fn cap(max_in_flight: usize) -> Limits {
    Limits {
        max_in_flight,
        ..LIMITS
    }
}

/// With this rate, and no other limit but a high cap.
const fn rate(per_second: f64) -> Limits {
    Limits {
        rate_per_second: Some(per_second),
        ..LIMITS
    }
}

/// Starts a delivery while this many of 256 slots are used.
fn begin(key: &mut KeyState, now: Instant, used: usize) -> Result<Ticket, Denial> {
    key.begin(now, slots(256, used), SLOW, true)
}

/// Defers a delivery that has not failed yet and waits with the broker.
fn defer(key: &mut KeyState, now: Instant, denial: Denial, random: f64) -> Duration {
    key.defer(now, denial, PAUSED_SNOOZE, true, Place::Broker, random)
}

/// Starts as many deliveries as may start, each of which takes a slot.
fn fill(key: &mut KeyState, now: Instant, slots: &mut Slots) -> usize {
    let mut begun = 0;
    while let Ok(_ticket) = key.begin(now, *slots, SLOW, true) {
        slots.used += 1;
        begun += 1;
    }
    begun
}

#[test]
fn a_channel_never_has_more_than_its_cap() {
    let now = Instant::now();
    let mut key = key_state(cap(3), now);
    assert_eq!(fill(&mut key, now, &mut slots(256, 0)), 3);
    assert_eq!(begin(&mut key, now, 3).unwrap_err(), Denial::AtCapacity);
}

#[test]
fn a_cap_that_was_lowered_holds_at_once() {
    let now = Instant::now();
    let mut key = key_state(LIMITS, now);
    let ticket = begin(&mut key, now, 0).unwrap();
    let _other = begin(&mut key, now, 1).unwrap();
    key.limit(cap(1), now);
    key.end(ticket, Signal::Alive, Duration::ZERO, now);
    assert_eq!(begin(&mut key, now, 1).unwrap_err(), Denial::AtCapacity);
}

#[rstest]
#[case::first_of_all(8, 0, 4)]
#[case::after_another(8, 4, 2)]
#[case::the_last_slot(8, 7, 1)]
fn a_channel_gets_no_more_than_it_leaves_free(
    #[case] total: usize,
    #[case] used: usize,
    #[case] granted: usize,
) {
    let now = Instant::now();
    assert_eq!(
        fill(&mut key_state(LIMITS, now), now, &mut slots(total, used)),
        granted
    );
}

/// However many channels hang: once they are known to be slow, a new channel finds a slot.
#[test]
fn slow_channels_leave_the_reserve_however_many_they_are() {
    let mut now = Instant::now();
    let mut slots = slots(256, 0);
    let mut keys: Vec<_> = (0..100).map(|_| key_state(LIMITS, now)).collect();
    for key in &mut keys {
        let ticket = key.begin(now, slots, SLOW, true).unwrap();
        key.end(ticket, Signal::Failing, Duration::from_secs(30), now);
    }
    for _ in 0..10 {
        now += Duration::from_secs(10);
        for key in &mut keys {
            fill(key, now, &mut slots);
        }
    }
    assert_eq!(slots.total - slots.used, slots.total / RESERVE);
    assert!(fill(&mut key_state(LIMITS, now), now, &mut slots) > 0);
}

#[test]
fn a_channel_of_which_nothing_ends_counts_as_slow_before_its_first_time_out() {
    let now = Instant::now();
    let mut key = key_state(LIMITS, now);
    let mut slots = slots(256, 0);
    let _ticket = key.begin(now, slots, SLOW, true).unwrap();
    slots.used += 200;
    assert!(key.soon(now, 0));
    let later = now + SLOW;
    assert!(!key.soon(later, 0));
    assert!(fill(&mut key, later, &mut slots) < 64 / 2);
}

#[test]
fn a_slow_channel_makes_progress_with_any_number_of_slots() {
    for total in 1..20 {
        let now = Instant::now();
        let mut key = key_state(LIMITS, now);
        let ticket = key.begin(now, slots(total, 0), SLOW, true).unwrap();
        key.end(ticket, Signal::Alive, Duration::from_secs(10), now);
        assert!(
            key.begin(now, slots(total, 0), SLOW, true).is_ok(),
            "{total}"
        );
    }
}

#[test]
fn a_rate_is_enforced() {
    let now = Instant::now();
    let mut key = key_state(rate(5.0), now);
    assert_eq!(fill(&mut key, now, &mut slots(256, 0)), 5);
    assert_eq!(begin(&mut key, now, 5).unwrap_err(), Denial::RateLimited);
    key.limit(LIMITS, now);
    assert!(begin(&mut key, now, 5).is_ok());
}

#[test]
fn messages_over_the_rate_come_back_at_that_rate() {
    let now = Instant::now();
    let mut key = key_state(rate(5.0), now);
    let mut defer = || defer(&mut key, now, Denial::RateLimited, 0.0);
    let waits: Vec<_> = (0..100).map(|_| defer()).collect();
    assert_eq!(waits[99], Duration::from_secs(20));
}

#[test]
fn while_its_breaker_is_open_a_channel_gets_none_and_its_messages_wait_for_longer_than_that() {
    let now = Instant::now();
    let mut key = key_state(LIMITS, now);
    for _ in 0..BREAKER.failures {
        let ticket = begin(&mut key, now, 0).unwrap();
        key.end(ticket, Signal::Failing, Duration::ZERO, now);
    }
    assert_eq!(begin(&mut key, now, 0).unwrap_err(), Denial::BreakerOpen);
    assert!(defer(&mut key, now, Denial::BreakerOpen, 0.0) > BREAKER.wait);
    let probed = now + BREAKER.wait;
    assert_eq!(fill(&mut key, probed, &mut slots(256, 0)), 1);
}

/// It does not return by itself: its lane looks at it when the breaker lets a probe through.
#[rstest]
#[case::in_the_store(Denial::RateLimited, Place::Store)]
#[case::on_its_way_there(Denial::BreakerOpen, Place::BrokerOrStore)]
fn what_waits_in_the_store_delays_no_other(#[case] denial: Denial, #[case] place: Place) {
    let now = Instant::now();
    let mut key = key_state(LIMITS, now);
    for _ in 0..20_000 {
        let wait = key.defer(now, denial, PAUSED_SNOOZE, true, place, 0.0);
        assert_eq!(wait, MIN_SNOOZE);
    }
    let first = defer(&mut key_state(LIMITS, now), now, denial, 0.0);
    assert_eq!(defer(&mut key, now, denial, 0.0), first);
}

#[test]
fn a_channel_that_recovered_goes_at_full_speed() {
    let now = Instant::now();
    let mut key = key_state(LIMITS, now);
    for _ in 0..BREAKER.failures {
        let ticket = begin(&mut key, now, 0).unwrap();
        key.end(ticket, Signal::Failing, Duration::from_secs(30), now);
    }
    for _ in 0..20_000 {
        defer(&mut key, now, Denial::BreakerOpen, 0.0);
    }
    let now = now + BREAKER.wait;
    let ticket = begin(&mut key, now, 0).unwrap();
    let quick = Duration::from_millis(5);
    assert_eq!(
        key.end(ticket, Signal::Alive, quick, now),
        Some(Change::Closed)
    );
    assert!(key.soon(now, 0));
    assert_eq!(defer(&mut key, now, Denial::AtCapacity, 0.0), MIN_SNOOZE);
}

#[test]
fn a_paused_channel_gets_none_and_looks_again_soon() {
    let now = Instant::now();
    let limits = Limits {
        paused: true,
        ..LIMITS
    };
    let mut key = key_state(limits, now);
    assert_eq!(begin(&mut key, now, 0).unwrap_err(), Denial::Paused);
    for random in [0.0, 0.5, 1.0] {
        let wait = defer(&mut key, now, Denial::Paused, random);
        assert!(wait.as_secs() <= PAUSED_SNOOZE.as_secs(), "{wait:?}");
    }
    key.limit(LIMITS, now);
    assert!(begin(&mut key, now, 0).is_ok());
}

#[test]
fn behind_a_quick_channel_many_wait_and_behind_a_slower_one_few() {
    let now = Instant::now();
    let average = |millis| {
        let mut key = key_state(LIMITS, now);
        let ticket = begin(&mut key, now, 0).unwrap();
        key.end(ticket, Signal::Alive, Duration::from_millis(millis), now);
        key
    };
    assert!(average(5).soon(now, 1000));
    assert!(average(50).soon(now, 100));
    assert!(!average(50).soon(now, 200));
    assert!(!average(200).soon(now, 0));
}

/// What may happen to a key.
#[derive(Debug, Clone)]
enum Step {
    Begin,
    End(usize, bool),
    GiveUp(usize),
    Defer,
    Pass(u64),
    Cap(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Begin),
        3 => (any::<usize>(), any::<bool>()).prop_map(|(which, alive)| Step::End(which, alive)),
        1 => any::<usize>().prop_map(Step::GiveUp),
        2 => Just(Step::Defer),
        2 => (0_u64..5000).prop_map(Step::Pass),
        1 => (1_usize..10).prop_map(Step::Cap),
    ]
}

proptest! {
    #[test]
    fn no_more_than_the_cap_are_ever_begun(steps in prop::collection::vec(step(), 1..300)) {
        let mut now = Instant::now();
        let mut key = key_state(LIMITS, now);
        let mut max = LIMITS.max_in_flight;
        let mut slots = slots(32, 0);
        let mut under_way = Vec::new();
        for step in steps {
            match step {
                Step::Begin => {
                    if let Ok(ticket) = key.begin(now, slots, SLOW, true) {
                        prop_assert!(under_way.len() < max);
                        prop_assert!(under_way.len() < slots.total / 2);
                        under_way.push((ticket, now));
                    }
                }
                Step::End(which, alive) if !under_way.is_empty() => {
                    let (ticket, begun) = under_way.swap_remove(which % under_way.len());
                    let signal = if alive { Signal::Alive } else { Signal::Failing };
                    key.end(ticket, signal, now - begun, now);
                }
                Step::GiveUp(which) if !under_way.is_empty() => {
                    let (ticket, _) = under_way.swap_remove(which % under_way.len());
                    key.give_up(ticket, now);
                }
                Step::Defer => {
                    let wait = defer(&mut key, now, Denial::AtCapacity, 0.5);
                    prop_assert!((MIN_SNOOZE..=MAX_SNOOZE).contains(&wait));
                }
                Step::Pass(millis) => now += Duration::from_millis(millis),
                Step::Cap(lowered) => {
                    max = lowered;
                    key.limit(cap(lowered), now);
                }
                Step::End(..) | Step::GiveUp(_) => {}
            }
            slots.used = under_way.len();
            prop_assert_eq!(key.is_idle(), under_way.is_empty());
        }
    }
}
