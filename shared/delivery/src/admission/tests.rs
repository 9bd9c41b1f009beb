use super::*;

const BREAKER: BreakerConfig = BreakerConfig {
    failures: 2,
    wait: Duration::from_secs(2),
    max_wait: Duration::from_mins(2),
    probes: 1,
};

const LIMITS: Limits = Limits {
    max_in_flight: 2,
    rate_per_second: None,
    paused: false,
};

fn admission(shared_server: bool) -> Admission {
    Admission::new(Rules {
        slots: 8,
        paused_snooze: Duration::from_secs(30),
        breaker: BREAKER,
        shared_server,
        report: Report(Arc::new(|_, _| {})),
    })
}

fn one_server_per_key() -> Admission {
    admission(false)
}

fn named(key: &str) -> Key {
    key.parse::<ChannelId>().unwrap().into()
}

async fn enter(admission: &Admission, key: &str) -> Result<Permit, Deferred> {
    admission
        .enter(&named(key), LIMITS, true, Place::Broker)
        .await
}

async fn enter_twice(admission: &Admission, key: &str) -> (Permit, Permit) {
    (
        enter(admission, key).await.unwrap(),
        enter(admission, key).await.unwrap(),
    )
}

/// Makes one delivery of this key, if it is admitted.
async fn deliver(admission: &Admission, key: &str, signal: Signal) -> Option<()> {
    enter(admission, key).await.ok()?.end(signal);
    Some(())
}

#[tokio::test(start_paused = true)]
async fn one_too_many_waits_for_another_to_end() {
    let admission = one_server_per_key();
    let (first, _second) = enter_twice(&admission, "c").await;
    let (third, ()) = tokio::join!(enter(&admission, "c"), async { first.end(Signal::Alive) });
    assert!(third.is_ok());
}

#[tokio::test(start_paused = true)]
async fn one_too_many_is_deferred_when_none_ends() {
    let admission = one_server_per_key();
    let _under_way = enter_twice(&admission, "c").await;
    let begin = Instant::now();
    let deferred = enter(&admission, "c").await.unwrap_err();
    assert_eq!(deferred.reason, WaitReason::ChannelAtCapacity);
    assert_eq!(begin.elapsed(), key_state::PATIENCE);
}

#[tokio::test(start_paused = true)]
async fn behind_a_key_that_hangs_none_waits() {
    let admission = one_server_per_key();
    let _under_way = enter_twice(&admission, "c").await;
    tokio::time::advance(Duration::from_secs(1)).await;
    let begin = Instant::now();
    assert!(enter(&admission, "c").await.is_err());
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_hangs_takes_nothing_from_another() {
    let admission = one_server_per_key();
    let _under_way = enter_twice(&admission, "hangs").await;
    tokio::time::advance(Duration::from_secs(1)).await;
    for _ in 0..100 {
        assert!(enter(&admission, "hangs").await.is_err());
        enter(&admission, "well").await.unwrap().end(Signal::Alive);
    }
}

#[tokio::test(start_paused = true)]
async fn a_permit_that_is_dropped_is_given_back() {
    let admission = one_server_per_key();
    for _ in 0..100 {
        drop(enter(&admission, "c").await.unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_went_unavailable_keeps_nothing() {
    let admission = one_server_per_key();
    let (first, second) = enter_twice(&admission, "c").await;
    let impatient = timeout(Duration::from_millis(1), enter(&admission, "c")).await;
    assert!(impatient.is_err());
    first.end(Signal::Alive);
    second.end(Signal::Alive);
    let _both = enter_twice(&admission, "c").await;
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_learn_at_once_that_the_breaker_opened() {
    let admission = one_server_per_key();
    let (first, second) = enter_twice(&admission, "c").await;
    let begin = Instant::now();
    let (third, ()) = tokio::join!(enter(&admission, "c"), async {
        first.end(Signal::Failing);
        second.end(Signal::Failing);
    });
    // The delivery whose turn came with the first failure may start; the breaker opened after it.
    drop(third);
    assert_eq!(begin.elapsed(), Duration::ZERO);
    let deferred = enter(&admission, "c").await.unwrap_err();
    assert_eq!(deferred.reason, WaitReason::EndpointFailing);
}

#[tokio::test(start_paused = true)]
async fn the_keys_own_limits_count() {
    let admission = one_server_per_key();
    let key = named("c");
    let one = Limits {
        max_in_flight: 1,
        ..LIMITS
    };
    let _permit = admission
        .enter(&key, one, true, Place::Broker)
        .await
        .unwrap();
    assert!(
        admission
            .enter(&key, one, true, Place::Broker)
            .await
            .is_err()
    );
    let paused = Limits {
        paused: true,
        ..LIMITS
    };
    let other = named("other");
    let deferred = admission
        .enter(&other, paused, true, Place::Broker)
        .await
        .unwrap_err();
    assert_eq!(deferred.reason, WaitReason::ChannelPaused);
}

#[tokio::test(start_paused = true)]
async fn keys_that_fail_leave_the_server_open_for_the_others() {
    let admission = admission(true);
    for _ in 0..1_000 {
        for poison in 0..4 {
            deliver(&admission, &format!("poison-{poison}"), Signal::Failing).await;
        }
        deliver(&admission, "well", Signal::Alive).await.unwrap();
        tokio::time::advance(Duration::from_millis(20)).await;
    }
    assert_eq!(admission.open_breakers().server, None);
    assert_eq!(admission.open_breakers().keys, 4);
}

#[tokio::test(start_paused = true)]
async fn few_of_many_keys_that_fail_leave_the_server_open() {
    let admission = admission(true);
    for round in 0..2_000 {
        for poison in 0..7 {
            deliver(&admission, &format!("poison-{poison}"), Signal::Failing).await;
        }
        // Far less traffic than that of the failing keys.
        if round % 50 == 0 {
            for well in 0..13 {
                let key = format!("well-{well}");
                deliver(&admission, &key, Signal::Alive).await.unwrap();
            }
        }
        tokio::time::advance(Duration::from_millis(20)).await;
    }
    assert_eq!(admission.open_breakers().server, None);
}

#[tokio::test(start_paused = true)]
async fn hours_without_the_server_cost_few_deliveries() {
    let admission = admission(true);
    let begin = Instant::now();
    let mut made = 0_u32;
    while begin.elapsed() < Duration::from_hours(3) {
        for key in 0..100 {
            if deliver(&admission, &key.to_string(), Signal::Failing)
                .await
                .is_some()
            {
                made += 1;
            }
        }
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    // One in two minutes, those until the wait is that long, and a few of each key before it
    // opened.
    assert!((90..=600).contains(&made), "{made}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_back_has_all_keys_back() {
    let admission = admission(true);
    for _ in 0..600 {
        for key in 0..10 {
            deliver(&admission, &key.to_string(), Signal::Failing).await;
        }
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    assert!(admission.open_breakers().server.is_some());
    let back = Instant::now();
    let all = async {
        let mut missing: Vec<String> = (0..10).map(|key| key.to_string()).collect();
        while !missing.is_empty() {
            let mut still = Vec::new();
            for key in missing {
                if deliver(&admission, &key, Signal::Alive).await.is_none() {
                    still.push(key);
                }
            }
            missing = still;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(BREAKER.max_wait * 2, all).await.unwrap();
    assert!(back.elapsed() <= BREAKER.max_wait + BREAKER.wait);
    assert_eq!(
        admission.open_breakers(),
        OpenBreakers {
            server: None,
            keys: 0
        }
    );
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_asked_for_quiet_leaves_the_others_alone() {
    let admission = admission(true);
    let hour = Duration::from_hours(1);
    for key in 0..10 {
        deliver(&admission, &key.to_string(), Signal::Hold(hour)).await;
    }
    assert!(enter(&admission, "0").await.is_err());
    assert!(deliver(&admission, "well", Signal::Alive).await.is_some());
    assert_eq!(admission.open_breakers().server, None);
}

#[tokio::test(start_paused = true)]
async fn what_has_not_failed_yet_probes_first() {
    let admission = one_server_per_key();
    let key = named("c");
    for _ in 0..BREAKER.failures {
        deliver(&admission, "c", Signal::Failing).await.unwrap();
    }
    tokio::time::advance(BREAKER.wait).await;
    let failed_before = admission.enter(&key, LIMITS, false, Place::Broker).await;
    assert_eq!(
        failed_before.unwrap_err().reason,
        WaitReason::EndpointFailing
    );
    assert!(
        admission
            .enter(&key, LIMITS, true, Place::Broker)
            .await
            .is_ok()
    );
    // Without fresh deliveries, the others probe a little later.
    tokio::time::advance(BREAKER.wait).await;
    assert!(
        admission
            .enter(&key, LIMITS, false, Place::Broker)
            .await
            .is_ok()
    );
}

#[tokio::test(start_paused = true)]
async fn a_key_gets_its_half_of_a_slow_server() {
    let admission = admission(true);
    let limits = Limits {
        max_in_flight: 8,
        ..LIMITS
    };
    let key = named("c");
    for _ in 0..20 {
        let permit = admission
            .enter(&key, limits, true, Place::Broker)
            .await
            .unwrap();
        tokio::time::advance(Duration::from_secs(3)).await;
        permit.end(Signal::Alive);
    }
    let mut permits = Vec::new();
    while let Ok(permit) = admission.enter(&key, limits, true, Place::Broker).await {
        permits.push(permit);
    }
    assert_eq!(permits.len(), 4);
}
