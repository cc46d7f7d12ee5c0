use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Join,
    Leave(prop::sample::Index),
    Publish,
    Sweep(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => Just(Step::Join),
        2 => any::<prop::sample::Index>().prop_map(Step::Leave),
        1 => Just(Step::Publish),
        3 => (1..8_usize).prop_map(Step::Sweep),
    ];
    prop::collection::vec(step, 1..120)
}

/// Sweeps for at most `writes` writes, each of which takes everything. Whether anything is left.
fn sweep(fanout: &mut Fanout, writes: usize) -> bool {
    fanout.begin_slice(Time::ZERO);
    for _ in 0..writes {
        match fanout.poll(Time::ZERO, u64::MAX) {
            Sweep::Write(seat) => {
                let len = fanout.offer(seat).contiguous().expect("little fits into one chunk").len();
                assert!(fanout.wrote(seat, len).caught_up);
            }
            Sweep::Overdue(_) => unreachable!("nobody is slow"),
            Sweep::Idle => return false,
        }
    }
    true
}

proptest! {
    /// Whoever comes or goes while a sweep is under way: it forgets nobody.
    #[test]
    fn a_sweep_forgets_nobody(steps in steps()) {
        let mut fanout = Fanout::default();
        let id = fanout.open(RoomId(0), WireFormat::Text, Arc::default());
        let mut table = crate::base::table::Table::default();
        let mut seats: Vec<(ConnKey, Seat)> = Vec::new();
        for step in steps {
            match step {
                Step::Join => {
                    let key = table.insert(());
                    let seat = fanout.join(id, key, false);
                    fanout.set_ready(seat, true);
                    seats.push((key, seat));
                }
                Step::Leave(which) if !seats.is_empty() => {
                    let (_, seat) = seats.swap_remove(which.index(seats.len()));
                    if let Some(moved) = fanout.leave(seat) {
                        let (_, other) = seats.iter_mut().find(|(key, _)| key.index() == moved).unwrap();
                        *other = seat;
                    }
                }
                Step::Leave(_) => {}
                Step::Publish => fanout.publish(Time::ZERO, id, &Bytes::from_static(b"hello"), None),
                Step::Sweep(writes) => {
                    sweep(&mut fanout, writes);
                }
            }
        }
        while sweep(&mut fanout, 1000) {}
        for (_, seat) in seats {
            prop_assert_eq!(fanout.behind(seat), 0);
        }
    }
}
