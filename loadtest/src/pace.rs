//! The intended send time of each message. It follows from the plan alone and does not depend on the server.

use serde::{Deserialize, Serialize};

/// A part of a run in which the number of clients and the rate change linearly.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Stage {
    /// Its name, if the scenario file gives one.
    pub name: Option<String>,
    /// Duration in seconds.
    pub seconds: f64,
    /// Messages per second at its start and at its end.
    pub rate: (f64, f64),
    /// Clients at its start and at its end.
    pub clients: (u32, u32),
}

/// Total duration of all stages, in seconds.
pub fn length(stages: &[Stage]) -> f64 {
    stages.iter().map(|stage| stage.seconds).sum()
}

/// Converts seconds to nanoseconds.
pub fn nanos(seconds: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "times in a plan are in range and not negative"
    )]
    let nanos = (seconds * 1e9) as u64;
    nanos
}

/// The index of the stage at `ns` nanoseconds; after the end, of the last one.
pub fn stage_at(stages: &[Stage], ns: u64) -> usize {
    let mut end = 0.0;
    let over = stages.iter().take_while(|stage| {
        end += stage.seconds;
        nanos(end) <= ns
    });
    over.count().min(stages.len().saturating_sub(1))
}

/// The target number of clients at `seconds`.
pub fn clients_at(stages: &[Stage], mut seconds: f64) -> u32 {
    for stage in stages {
        if seconds < stage.seconds {
            let (from, to) = (f64::from(stage.clients.0), f64::from(stage.clients.1));
            let now = from + (to - from) * (seconds / stage.seconds);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between two u32")]
            return now.round() as u32;
        }
        seconds -= stage.seconds;
    }
    stages.last().map_or(0, |stage| stage.clients.1)
}

/// The send times of all messages, of all publishers together, in seconds from the start.
#[derive(Clone, Debug)]
pub struct Pace {
    stages: Vec<Stage>,
    /// The current stage, and its start time.
    stage: usize,
    began: f64,
    /// Messages of this stage before the next one; a fraction carries over from the stage before.
    due: f64,
}

impl Pace {
    /// Starts with the first message.
    pub const fn new(stages: Vec<Stage>) -> Self {
        Self { stages, stage: 0, began: 0.0, due: 0.0 }
    }
}

impl Iterator for Pace {
    type Item = f64;

    fn next(&mut self) -> Option<f64> {
        loop {
            let stage = self.stages.get(self.stage)?;
            if let Some(at) = moment(stage, self.due) {
                self.due += 1.0;
                return Some(self.began + at);
            }
            let all = (stage.rate.0 + stage.rate.1) / 2.0 * stage.seconds;
            self.due -= all;
            self.began += stage.seconds;
            self.stage += 1;
        }
    }
}

/// The time in the stage at which `count` messages are due: the inverse of the integral of its rate.
fn moment(stage: &Stage, count: f64) -> Option<f64> {
    let (from, to) = stage.rate;
    let slope = (to - from) / stage.seconds;
    // count = from · t + slope / 2 · t². This form also holds for a slope of zero.
    let root = from * from + 2.0 * slope * count;
    let divisor = from + root.max(0.0).sqrt();
    let at = if count <= 0.0 { 0.0 } else { 2.0 * count / divisor };
    (root >= 0.0 && at.is_finite() && at < stage.seconds && (from, to) != (0.0, 0.0)).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(seconds: f64, from: f64, to: f64) -> Stage {
        Stage { seconds, rate: (from, to), clients: (0, 100), ..Stage::default() }
    }

    #[test]
    fn a_constant_rate_is_even() {
        let moments: Vec<_> = Pace::new(vec![stage(2.0, 4.0, 4.0)]).collect();
        assert_eq!(moments, [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75]);
    }

    #[test]
    fn a_ramp_has_the_area_under_it_as_messages() {
        let stages = vec![
            stage(10.0, 0.0, 100.0),
            stage(5.0, 0.0, 0.0),
            stage(10.0, 100.0, 0.0),
            stage(1.0, 0.5, 0.5),
        ];
        let moments: Vec<_> = Pace::new(stages).collect();
        assert!((1000..=1002).contains(&moments.len()), "{}", moments.len());
        assert!(moments.is_sorted());
        let until = |end| moments.iter().filter(|&&at| at < end).count();
        assert!((124..=126).contains(&until(5.0)), "{}", until(5.0)); // a quarter of the first triangle
        assert_eq!(moments.iter().filter(|at| (10.0..15.0).contains(*at)).count(), 0);
        assert!((874..=877).contains(&until(20.0)), "{}", until(20.0));
    }

    #[test]
    fn client_targets_are_interpolated() {
        let stages = [stage(10.0, 0.0, 0.0), Stage { seconds: 5.0, clients: (100, 20), ..Stage::default() }];
        assert_eq!(
            [0.0, 5.0, 10.0, 12.5, 15.0, 99.0].map(|at| clients_at(&stages, at)),
            [0, 50, 100, 60, 20, 20]
        );
        assert_eq!(length(&stages), 15.0);
    }
}
