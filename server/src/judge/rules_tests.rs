//! Facts against plans: what is go, what is no-go, and what can't be known yet.

use super::*;

fn device(name: &str) -> DeviceId {
    DeviceId::new(name).expect("a name")
}

fn plan(text: &str) -> Plan {
    Plan::parse(&format!("v = 1\n{text}")).expect("a plan")
}

fn online() -> DeviceFacts {
    DeviceFacts {
        state: DeviceState::Online,
        silent_s: Some(0.2),
        battery_percent: Some(80.0),
        storage_mb: Some(1_000.0),
        has_log: true,
        elsewhere: None,
        time_error_ms: Some(1.5),
        flows: BTreeMap::from([(
            "acc".to_owned(),
            Flow {
                rate_hz: Some(100.0),
                gap_s: 0.3,
                ended: false,
            },
        )]),
    }
}

fn facts(phase: Phase, phone: DeviceFacts) -> Facts {
    Facts {
        phase,
        lasting_s: 60.0,
        not_ready: None,
        disk_free_bytes: 5 << 30,
        devices: BTreeMap::from([(device("phone"), phone)]),
        roster: Vec::new(),
    }
}

const WHOLE: &str = r#"
    [hub]
    disk_free_mib_min = 1024
    [devices]
    required = ["phone"]
    battery_percent_min = 30
    storage_minutes_min = 60
    storage_mb_per_minute = 2
    time_error_ms_max = 5
    [[stream]]
    stream = "acc"
    rate_hz_min = 95
    rate_hz_max = 105
    gap_s_max = 2
"#;

#[track_caller]
fn broken(found: &[Finding]) -> Vec<(Rule, &str)> {
    for finding in found {
        // Whoever reads a no-go is told what to do, and nobody else is.
        assert_eq!(
            finding.todo.is_some(),
            finding.verdict == Verdict::NoGo,
            "{finding:?}"
        );
    }
    let broken = found.iter().filter(|finding| finding.verdict == Verdict::NoGo);
    broken
        .map(|finding| (finding.rule, finding.is.as_str()))
        .collect()
}

#[test]
fn all_is_well() {
    let found = judge(&plan(WHOLE), &facts(Phase::During, online()));
    assert!(
        found.iter().all(|finding| finding.verdict == Verdict::Go),
        "{found:?}"
    );
    assert_eq!(found.len(), 10, "every rule is judged once: {found:?}");
    let before = judge(&plan(WHOLE), &facts(Phase::Before, online()));
    let rules: Vec<_> = before.iter().map(|finding| finding.rule).collect();
    use Rule::{Battery, Device, DiskRoom, HubReady, Storage};
    assert_eq!(rules, [HubReady, DiskRoom, Device, Battery, Storage]);
}

#[test]
fn each_rule_is_broken_by_what_breaks_it() {
    let flow = |rate_hz, gap_s| {
        let ended = false;
        BTreeMap::from([(
            "acc".to_owned(),
            Flow {
                rate_hz,
                gap_s,
                ended,
            },
        )])
    };
    let cases: [(DeviceFacts, (Rule, &str)); 9] = [
        (
            DeviceFacts {
                state: DeviceState::Late,
                silent_s: Some(12.34),
                ..online()
            },
            (Rule::Device, "late, nothing heard for 12.3 s"),
        ),
        (
            DeviceFacts {
                has_log: false,
                time_error_ms: None,
                ..online()
            },
            (Rule::Recording, "it has opened no log"),
        ),
        (
            DeviceFacts {
                battery_percent: Some(29.9),
                ..online()
            },
            (Rule::Battery, "30 %"),
        ),
        (
            DeviceFacts {
                battery_percent: None,
                ..online()
            },
            (Rule::Battery, "it does not say"),
        ),
        (
            DeviceFacts {
                storage_mb: Some(100.0),
                ..online()
            },
            (Rule::Storage, "room for 50 min (100 MB)"),
        ),
        (
            DeviceFacts {
                time_error_ms: Some(5.1),
                ..online()
            },
            (Rule::TimeError, "5.100 ms"),
        ),
        (
            DeviceFacts {
                time_error_ms: None,
                ..online()
            },
            (Rule::TimeError, "no bound"),
        ),
        (
            DeviceFacts {
                flows: flow(Some(94.0), 0.0),
                ..online()
            },
            (Rule::Rate, "94.00 Hz over 10 s"),
        ),
        (
            DeviceFacts {
                flows: flow(Some(100.0), 2.5),
                ..online()
            },
            (Rule::Gap, "2.5 s"),
        ),
    ];
    for (phone, expected) in cases {
        let found = judge(&plan(WHOLE), &facts(Phase::During, phone));
        assert_eq!(broken(&found), [expected]);
    }
    let mut full = facts(Phase::During, online());
    full.disk_free_bytes = 1 << 29;
    full.not_ready = Some("the disk is full".to_owned());
    let found = judge(&plan(WHOLE), &full);
    assert_eq!(
        broken(&found),
        [
            (Rule::HubReady, "the disk is full"),
            (Rule::DiskRoom, "512 MiB free")
        ]
    );
}

#[test]
fn what_is_only_just_beginning_is_no_breach() {
    let mut young = facts(
        Phase::During,
        DeviceFacts {
            has_log: false,
            time_error_ms: None,
            flows: BTreeMap::new(),
            ..online()
        },
    );
    young.lasting_s = 3.0;
    assert_eq!(broken(&judge(&plan(WHOLE), &young)), []);
    young.lasting_s = 30.0;
    let found = judge(&plan(WHOLE), &young);
    assert_eq!(
        broken(&found),
        [
            (Rule::Recording, "it has opened no log"),
            (Rule::Stream, "not declared")
        ]
    );
}

#[test]
fn a_device_that_was_never_seen_is_missing_once_and_not_three_times() {
    let mut nobody = facts(Phase::Before, online());
    nobody.devices.clear();
    let found = judge(&plan(WHOLE), &nobody);
    assert_eq!(
        broken(&found),
        [(Rule::Device, "offline, not seen since the hub was started")]
    );
}

#[test]
fn before_the_start_a_device_that_is_recorded_elsewhere_is_none_to_start_with() {
    let busy = DeviceFacts {
        elsewhere: Some("run".to_owned()),
        ..online()
    };
    let found = judge(&plan(WHOLE), &facts(Phase::Before, busy));
    assert_eq!(broken(&found), [(Rule::Device, "being recorded in session run")]);
}

#[test]
fn without_a_file_the_roster_is_what_must_be_there() {
    let mut with_roster = facts(Phase::During, online());
    with_roster.roster = vec![device("phone"), device("watch")];
    let found = judge(&Plan::of_nothing(Some(1_000.0)), &with_roster);
    assert_eq!(
        broken(&found),
        [
            (Rule::Device, "offline, not seen since the hub was started"),
            (Rule::Recording, "it has opened no log"),
            (Rule::TimeError, "1.500 ms")
        ]
    );
}
