//! Two builds side by side: rounds of one and of the other alternate, and what is compared is each round's
//! ratio.

#![expect(clippy::print_stdout, reason = "printing is what a benchmark is for")]

use super::rows::{Measured, Plan, Row, label};

/// What must not get worse by more than this, as a ratio of new to old.
struct Bounds {
    cost: f64,
    p99: f64,
}

const BOUNDS: Bounds = Bounds { cost: 1.03, p99: 1.25 };

/// In a flood the batches decide, and they vary.
const FLOOD: Bounds = Bounds { cost: 1.10, p99: 1.25 };

/// The head of the table.
pub fn print_head(rounds: usize) {
    println!(
        "{:<22}{:>8}{:>8}{:>8}  {:<16}{:>7}{:>7}  {rounds} rounds; the ratios are new to old, in medians",
        "row", "old µs", "new µs", "ratio", "95 % interval", "p99", ""
    );
}

/// Measures one row with both builds, on one driver, and prints it. Whether it is within its bounds.
pub fn compare(plan: &Plan, row: &Row, driver: &str) -> bool {
    let mut rounds: Vec<[Measured; 2]> = Vec::new();
    for round in 0..plan.rounds {
        let mut both = [Measured::default(); 2];
        // The order alternates: what is warm then, or what another has left behind, is for both the same.
        for turn in 0..2 {
            let which = (round + turn) % 2;
            let server = plan.serve_one_of_two(which, driver);
            both[which] = row.measure(plan, &server, 2 + u8::try_from((2 * round + turn) % 200).unwrap_or(0));
        }
        rounds.push(both);
    }
    let median = |of: &dyn Fn(&[Measured; 2]) -> f64| Spread::of(rounds.iter().map(of).collect()).median;
    let cost = Spread::of(rounds.iter().map(|[old, new]| new.cost / old.cost).collect());
    let p99 = median(&|[old, new]| new.p99_ms / old.p99_ms);
    let bounds = if row.is_flood() { FLOOD } else { BOUNDS };
    let fine = cost.median <= bounds.cost && p99 <= bounds.p99;
    println!(
        "{:<22}{:>8.2}{:>8.2}{:>8.3}  {:<16}{p99:>7.2}  {}",
        label(row.name, driver),
        median(&|[old, _]| old.cost),
        median(&|[_, new]| new.cost),
        cost.median,
        format!("{:.3} to {:.3}", cost.low, cost.high),
        if fine { "" } else { "WORSE" }
    );
    fine
}

/// A median and the interval that has it with at least 95 %: by ranks, for any distribution.
struct Spread {
    median: f64,
    low: f64,
    high: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let rank = rank(values.len());
        Self { median: values[values.len() / 2], low: values[rank], high: values[values.len() - 1 - rank] }
    }
}

/// The largest rank, from 0, such that the median of what `count` values are drawn from lies below it with at
/// most 2.5 %.
fn rank(count: usize) -> usize {
    // The binomial distribution for one half, from its foot.
    let mut term = 0.5_f64.powi(i32::try_from(count).unwrap_or(i32::MAX));
    let (mut sum, mut rank) = (term, 0);
    let mut k = 0.0;
    #[expect(clippy::cast_precision_loss, reason = "a few rounds")]
    let of = count as f64;
    while sum <= 0.025 && rank < count / 2 {
        term *= (of - k) / (k + 1.0);
        k += 1.0;
        sum += term;
        if sum <= 0.025 {
            rank += 1;
        }
    }
    rank
}
