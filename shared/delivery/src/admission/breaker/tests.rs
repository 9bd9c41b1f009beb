use proptest::prelude::*;
use roundtrip_model::outcome::Failure;
use rstest::rstest;

use super::*;

const CONFIG: BreakerConfig = BreakerConfig {
    failures: 3,
    wait: Duration::from_secs(2),
    max_wait: Duration::from_secs(10),
    probes: 2,
};

fn failing(breaker: &mut Breaker, now: Instant) -> Option<Change> {
    let ticket = breaker.admit(now, true).expect("an attempt is admitted");
    breaker.record(ticket, Signal::Failing, now)
}

/// An open breaker, and when it may be probed.
fn open(now: Instant) -> (Breaker, Instant) {
    let mut breaker = Breaker::new(CONFIG);
    for _ in 1..CONFIG.failures {
        assert_eq!(failing(&mut breaker, now), None);
    }
    assert_eq!(
        failing(&mut breaker, now),
        Some(Change::Opened(CONFIG.wait))
    );
    (breaker, now + CONFIG.wait)
}

#[test]
fn failures_in_a_row_open_it() {
    let now = Instant::now();
    let (mut breaker, probed) = open(now);
    assert!(breaker.admit(now, true).is_none());
    assert_eq!(breaker.blocked_until(now, true), Some(probed));
}

#[test]
fn a_success_between_starts_the_row_anew() {
    let now = Instant::now();
    let mut breaker = Breaker::new(CONFIG);
    for _ in 0..10 {
        assert_eq!(failing(&mut breaker, now), None);
        assert_eq!(failing(&mut breaker, now), None);
        let ticket = breaker.admit(now, true).unwrap();
        breaker.record(ticket, Signal::Alive, now);
    }
    assert!(breaker.is_closed());
}

#[test]
fn most_results_of_a_window_failing_open_it() {
    let now = Instant::now();
    let mut breaker = Breaker::new(BreakerConfig {
        failures: 1000,
        ..CONFIG
    });
    let mut opened = 0;
    for number in 0..WINDOW_RESULTS {
        let ticket = breaker.admit(now, true).unwrap();
        let signal = if number % 5 == 0 {
            Signal::Alive
        } else {
            Signal::Failing
        };
        opened += u32::from(breaker.record(ticket, signal, now).is_some());
    }
    assert_eq!(opened, 1);
    assert!(!breaker.is_closed());
}

#[test]
fn a_probe_that_succeeds_closes_it() {
    let (mut breaker, now) = open(Instant::now());
    let probe = breaker.admit(now, true).unwrap();
    assert_eq!(
        breaker.record(probe, Signal::Alive, now),
        Some(Change::Closed)
    );
    assert!(breaker.is_closed());
}

#[test]
fn each_probe_that_fails_doubles_the_wait_up_to_the_most() {
    let (mut breaker, mut now) = open(Instant::now());
    for seconds in [4, 8, 10, 10] {
        let wait = Duration::from_secs(seconds);
        assert_eq!(failing(&mut breaker, now), Some(Change::Opened(wait)));
        now += wait;
    }
}

#[test]
fn a_probe_that_ended_without_a_result_gives_its_place_back() {
    let (mut breaker, now) = open(Instant::now());
    let _first = breaker.admit(now, true).unwrap();
    let second = breaker.admit(now, true).unwrap();
    assert!(breaker.admit(now, true).is_none());
    breaker.forget(second);
    assert!(breaker.admit(now, true).is_some());
}

#[test]
fn late_results_of_tries_from_before_the_opening_change_nothing() {
    let now = Instant::now();
    let mut breaker = Breaker::new(CONFIG);
    let late: Vec<_> = (0..10).map(|_| breaker.admit(now, true).unwrap()).collect();
    for _ in 0..CONFIG.failures {
        failing(&mut breaker, now);
    }
    let probed = now + CONFIG.wait;
    for ticket in late {
        assert_eq!(breaker.record(ticket, Signal::Failing, probed), None);
    }
    assert!(breaker.admit(probed, true).is_some());
}

#[test]
fn it_is_held_open_for_as_long_as_the_endpoint_asks() {
    let now = Instant::now();
    let mut breaker = Breaker::new(CONFIG);
    let ticket = breaker.admit(now, true).unwrap();
    let asked = Duration::from_mins(7);
    assert_eq!(
        breaker.record(ticket, Signal::Hold(asked), now),
        Some(Change::Opened(asked))
    );
    assert!(
        breaker
            .admit(now + asked - Duration::from_millis(1), true)
            .is_none()
    );
    assert!(breaker.admit(now + asked, true).is_some());
}

#[rstest]
#[case::delivered(200, Signal::Alive)]
#[case::refused(400, Signal::Alive)]
#[case::not_found(404, Signal::Failing)]
#[case::failed(503, Signal::Failing)]
#[case::too_many(429, Signal::Hold(Duration::from_mins(1)))]
fn a_status_is_read_as_a_signal(#[case] status: u16, #[case] signal: Signal) {
    let outcome = Outcome::Responded {
        status,
        retry_after: Some(Duration::from_secs(100)),
        location: None,
        excerpt: String::new(),
    };
    assert_eq!(Signal::of(&outcome, Duration::from_mins(1)), signal);
}

#[test]
fn a_time_out_counts_as_a_failure() {
    let outcome = Outcome::Failed(Failure::TimedOut(Duration::from_secs(30)));
    assert_eq!(Signal::of(&outcome, Duration::ZERO), Signal::Failing);
}

#[rstest]
#[case::failures(BreakerConfig { failures: 0, ..CONFIG }, "breaker.failures")]
#[case::probes(BreakerConfig { probes: 0, ..CONFIG }, "breaker.probes")]
#[case::wait(BreakerConfig { wait: Duration::ZERO, ..CONFIG }, "breaker.wait")]
#[case::max_wait(BreakerConfig { max_wait: Duration::from_secs(1), ..CONFIG }, "breaker.max_wait")]
fn a_setting_out_of_its_bounds_is_named(#[case] config: BreakerConfig, #[case] setting: &str) {
    let mut check = Check::of("breaker");
    config.check(&mut check);
    let wrong = check.end().unwrap_err().to_string();
    assert!(wrong.starts_with(&format!("{setting} must")), "{wrong}");
}

/// What may happen to a breaker.
#[derive(Debug, Clone)]
enum Step {
    Admit,
    End(usize, Signal),
    Forget(usize),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let signal = prop_oneof![
        Just(Signal::Alive),
        Just(Signal::Failing),
        (1_u64..20).prop_map(|seconds| Signal::Hold(Duration::from_secs(seconds))),
    ];
    prop_oneof![
        4 => Just(Step::Admit),
        3 => (any::<usize>(), signal).prop_map(|(which, signal)| Step::End(which, signal)),
        1 => any::<usize>().prop_map(Step::Forget),
        2 => (0_u64..5000).prop_map(Step::Pass),
    ]
}

proptest! {
    #[test]
    fn never_more_than_the_allowed_probes_are_under_way(steps in prop::collection::vec(step(), 1..200)) {
        let mut now = Instant::now();
        let mut breaker = Breaker::new(CONFIG);
        let mut under_way: Vec<(bool, Ticket)> = Vec::new();
        for step in steps {
            match step {
                Step::Admit => {
                    let blocked = breaker.blocked_until(now, true);
                    let ticket = breaker.admit(now, true);
                    prop_assert_eq!(ticket.is_none(), blocked.is_some());
                    if let Some(ticket) = ticket {
                        under_way.push((!breaker.is_closed(), ticket));
                    }
                }
                Step::End(which, signal) if !under_way.is_empty() => {
                    let (_, ticket) = under_way.swap_remove(which % under_way.len());
                    let probed = ticket.era == breaker.era && !breaker.is_closed();
                    breaker.record(ticket, signal, now);
                    if probed && signal == Signal::Alive {
                        prop_assert!(breaker.is_closed());
                    }
                }
                Step::Forget(which) if !under_way.is_empty() => {
                    breaker.forget(under_way.swap_remove(which % under_way.len()).1);
                }
                Step::Pass(millis) => now += Duration::from_millis(millis),
                Step::End(..) | Step::Forget(_) => {}
            }
            let probing = under_way
                .iter()
                .filter(|(probe, ticket)| *probe && ticket.era == breaker.era)
                .count();
            prop_assert!(probing <= CONFIG.probes as usize);
        }
    }

    #[test]
    fn whatever_happened_a_quiet_breaker_lets_somebody_through_in_the_end(steps in prop::collection::vec(step(), 1..100)) {
        let mut now = Instant::now();
        let mut breaker = Breaker::new(CONFIG);
        let mut under_way = Vec::new();
        for step in steps {
            match step {
                Step::Admit => under_way.extend(breaker.admit(now, true)),
                Step::End(which, signal) if !under_way.is_empty() => {
                    let ticket = under_way.swap_remove(which % under_way.len());
                    breaker.record(ticket, signal, now);
                }
                Step::Pass(millis) => now += Duration::from_millis(millis),
                Step::End(..) | Step::Forget(_) => {}
            }
        }
        for ticket in under_way {
            breaker.forget(ticket);
        }
        let longest = CONFIG.max_wait.max(Duration::from_secs(20));
        prop_assert!(breaker.admit(now + longest, true).is_some());
    }
}
