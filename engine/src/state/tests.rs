use super::*;
use marey_format::frame::{DataBuilder, Value, control_frame};
use marey_format::{DeviceId, Seed, SessionId};

const EPOCH: EpochId = EpochId([1; 16]);

fn seed() -> Seed {
    Seed::new(
        &DeviceId::new("d").unwrap(),
        &SessionId::new("s").unwrap(),
        &EPOCH,
    )
}

fn declaration() -> Declaration {
    Declaration::from_json(br#"{"name":"x","fields":[{"name":"a","type":"i32"}]}"#).unwrap()
}

fn live(kind: Kind, stream: u32, sequence: u64, payload: &[u8]) -> Vec<u8> {
    control_frame(kind, Lane::Live, stream, sequence, 0, 0, payload, seed()).unwrap()
}

fn data(sequence: u64, first_index: u64, times: &[i64]) -> Vec<u8> {
    let mut builder = DataBuilder::new(&declaration());
    times
        .iter()
        .for_each(|&t| builder.push(t, &[Value::I64(t)]).unwrap());
    builder.finish(1, sequence, first_index, seed()).unwrap()
}

fn begun() -> LogState {
    let mut state = LogState::new();
    let mark = EpochMark {
        epoch: EPOCH,
        boot: BootId::UNKNOWN,
        ordinal: 0,
        refill: false,
    };
    let bytes = control_frame(Kind::EPOCH, Lane::Hub, 0, 0, 0, 0, &mark.to_bytes(), seed()).unwrap();
    state.apply(&Frame::parse(&bytes).unwrap(), None, 0).unwrap();
    let declare = live(Kind::DECLARE, 1, 0, &declaration().to_json());
    state.apply(&Frame::parse(&declare).unwrap(), Some(0), 0).unwrap();
    state
}

fn apply(state: &mut LogState, bytes: &[u8]) -> Result<Judged, Violation> {
    state.apply(&Frame::parse(bytes).unwrap(), Some(0), 0)
}

#[test]
fn frames_are_counted_and_jumps_are_legal() {
    let mut state = begun();
    apply(&mut state, &data(0, 0, &[1, 2])).unwrap();
    apply(&mut state, &data(5, 10, &[3])).unwrap();
    assert_eq!(state.epochs()[0].next, [6, 1]);
    assert_eq!((state.samples, state.stream(0, 1).unwrap().next_index), (3, 11));
}

#[test]
fn the_last_number_is_never_taken_for_it_could_be_taken_for_ever() {
    let mut state = begun();
    let last = live(Kind::STATE, 0, u64::MAX, b"{}");
    assert!(matches!(apply(&mut state, &last), Err(Violation::TooMany { .. })));
    apply(&mut state, &live(Kind::STATE, 0, u64::MAX - 1, b"{}")).unwrap();
    let again = apply(&mut state, &live(Kind::STATE, 0, u64::MAX - 1, b"{}"));
    assert!(matches!(again, Err(Violation::Below { .. })));
}

#[test]
fn what_was_passed_is_not_taken_again() {
    let mut state = begun();
    apply(&mut state, &data(3, 0, &[1])).unwrap();
    for sequence in [0, 3] {
        assert!(matches!(
            apply(&mut state, &data(sequence, 1, &[1])),
            Err(Violation::Below { .. })
        ));
    }
}

#[test]
fn holes_of_damage_are_filled_once() {
    let mut state = begun();
    apply(&mut state, &data(0, 0, &[1])).unwrap();
    apply(&mut state, &data(4, 4, &[5])).unwrap();
    state.add_hole(0, Lane::Data, (1, 4));
    apply(&mut state, &data(2, 2, &[3])).unwrap();
    assert_eq!(state.epochs()[0].holes[0], [(1, 2), (3, 4)]);
    assert!(matches!(
        apply(&mut state, &data(2, 2, &[3])),
        Err(Violation::Below { .. })
    ));
}

#[test]
fn order_that_breaks_is_quarantined_and_kept() {
    let mut state = begun();
    apply(&mut state, &data(0, 0, &[10, 20])).unwrap();
    let quarantine = |judged: Judged| match judged.meaning {
        Meaning::Data(quarantine) => quarantine,
        other => panic!("{other:?}"),
    };
    assert_eq!(quarantine(apply(&mut state, &data(1, 2, &[20])).unwrap()), None);
    assert_eq!(
        quarantine(apply(&mut state, &data(2, 3, &[19])).unwrap()),
        Some(Quarantine::TimeBackward)
    );
    assert_eq!(
        quarantine(apply(&mut state, &data(3, 2, &[30])).unwrap()),
        Some(Quarantine::IndexBackward)
    );
    assert_eq!(quarantine(apply(&mut state, &data(4, 4, &[30])).unwrap()), None);
    assert_eq!(state.epochs()[0].next[0], 5);
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let mut state = begun();
    let code = |result: Result<Judged, Violation>| result.unwrap_err().refusal().code;
    let mut undeclared = DataBuilder::new(&declaration());
    undeclared.push(0, &[Value::I64(0)]).unwrap();
    let undeclared = undeclared.finish(2, 0, 0, seed()).unwrap();
    assert_eq!(
        code(apply(&mut state, &undeclared)),
        RefusalCode::UndeclaredStream
    );
    let other = br#"{"name":"x","fields":[{"name":"a","type":"i64"}]}"#;
    assert_eq!(
        code(apply(&mut state, &live(Kind::DECLARE, 1, 1, other))),
        RefusalCode::SchemaMismatch
    );
    assert_eq!(
        code(apply(&mut state, &live(Kind::DECLARE, 257, 1, other))),
        RefusalCode::TooMany
    );
    assert_eq!(
        code(apply(&mut state, &live(Kind::EVENT, 0, 1, b"{}"))),
        RefusalCode::Malformed
    );
    assert_eq!(
        code(apply(&mut state, &live(Kind::PROBES, 0, 1, b"123"))),
        RefusalCode::Malformed
    );
    // The same declaration again is no error, nor is a kind of a later version.
    apply(&mut state, &live(Kind::DECLARE, 1, 1, &declaration().to_json())).unwrap();
    apply(&mut state, &live(Kind(0x20), 0, 2, b"?")).unwrap();
}

#[test]
fn an_index_row_does_what_the_frame_did() {
    let mut by_frames = begun();
    let mut by_rows = by_frames.clone();
    for frame in [data(0, 0, &[1, 2]), data(1, 2, &[1]), data(2, 5, &[9])] {
        let judged = apply(&mut by_frames, &frame).unwrap();
        let again = by_rows.judge_entry(&judged.entry).unwrap();
        by_rows.take(&again);
    }
    assert_eq!(format!("{by_frames:?}"), format!("{by_rows:?}"));
}
