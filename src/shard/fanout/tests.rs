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
            Sweep::Write(sub) => {
                let len = fanout.offer(sub).contiguous().expect("little fits into one chunk").len();
                assert!(fanout.wrote(sub, len).caught_up);
            }
            Sweep::Overdue(_) => unreachable!("no member is slow"),
            Sweep::Idle => return false,
        }
    }
    true
}

proptest! {
    /// Members join and leave while a sweep is in progress: it visits all of them.
    #[test]
    fn a_pass_visits_every_member(steps in steps()) {
        let mut fanout = Fanout::default();
        let id = fanout.open(RoomId(0), WireFormat::Text, Arc::default());
        let mut subs: Vec<SubId> = Vec::new();
        for step in steps {
            match step {
                Step::Join => {
                    let sub = fanout.subscribe(id, None, false);
                    fanout.set_ready(sub, true);
                    subs.push(sub);
                }
                Step::Leave(which) if !subs.is_empty() => {
                    let sub = subs.swap_remove(which.index(subs.len()));
                    prop_assert_eq!(fanout.unsubscribe(sub), Vec::<u8>::new());
                }
                Step::Leave(_) => {}
                Step::Publish => fanout.publish(Time::ZERO, id, &Bytes::from_static(b"hello"), None),
                Step::Sweep(writes) => {
                    sweep(&mut fanout, writes);
                }
            }
        }
        while sweep(&mut fanout, 1000) {}
        fanout.assert_invariants();
        for sub in subs {
            prop_assert_eq!(fanout.behind(sub), 0);
        }
    }
}
