//! Whether two samples differ, and by how much: intervals for the ratio of their typical values.
//!
//! Everything works on logarithms, so that a difference of them is a ratio of figures.

use statrs::distribution::{ContinuousCDF as _, Normal, StudentsT};

/// An estimate of `after ÷ before` and the interval that holds it at the confidence asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// The estimate.
    pub estimate: f64,
    /// The lowest value that fits the samples; 0 if they are too small to tell.
    pub low: f64,
    /// The highest; infinite if they are too small to tell.
    pub high: f64,
}

impl Ratio {
    fn exp(estimate: f64, low: f64, high: f64) -> Self {
        Self { estimate: estimate.exp(), low: low.exp(), high: high.exp() }
    }
}

/// The middle of sorted values; the mean of the two in the middle.
fn median_of_sorted(values: &[f64]) -> f64 {
    let half = values.len() / 2;
    if values.len() % 2 == 1 { values[half] } else { (values[half - 1] + values[half]) / 2.0 }
}

/// The median, `None` of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    (!sorted.is_empty()).then(|| median_of_sorted(&sorted))
}

/// From independent runs, whatever their distribution: the Hodges–Lehmann estimate, and the interval that the
/// Mann–Whitney test does not refuse at `1 − confidence`. One run that went astray moves neither far.
pub fn by_ranks(before: &[f64], after: &[f64], confidence: f64) -> Ratio {
    let mut differences: Vec<f64> =
        after.iter().flat_map(|after| before.iter().map(move |before| after.ln() - before.ln())).collect();
    differences.sort_by(f64::total_cmp);
    let estimate = median_of_sorted(&differences);
    match mann_whitney_rank(before.len(), after.len(), (1.0 - confidence) / 2.0) {
        0 => Ratio::exp(estimate, f64::NEG_INFINITY, f64::INFINITY),
        rank => Ratio::exp(estimate, differences[rank - 1], differences[differences.len() - rank]),
    }
}

/// The highest `k` with P(U < k) ≤ `tail`, U being the Mann–Whitney statistic of equal populations.
fn mann_whitney_rank(n: usize, m: usize, tail: f64) -> usize {
    // Beyond this the normal approximation is as good as exact, and the table would grow large.
    const EXACT_MAX: usize = 50;
    if n.max(m) > EXACT_MAX {
        let (n, m) = (n as f64, m as f64);
        let z = Normal::standard().inverse_cdf(tail);
        return (n * m / 2.0 + z * (n * m * (n + m + 1.0) / 12.0).sqrt()).floor().max(0.0) as usize;
    }
    // ways[i][u]: orders of i values of one sample and those of the other so far in which U is u.
    let size = n * m + 1;
    let mut ways = vec![vec![0.0; size]; n + 1];
    ways.iter_mut().for_each(|row| row[0] = 1.0);
    for j in 1..=m {
        for i in 1..=n {
            for u in (0..size).rev() {
                // The largest value is of the first sample, with j of the other below it, or of the other.
                let of_first = if u >= j { ways[i - 1][u - j] } else { 0.0 };
                ways[i][u] += of_first;
            }
        }
    }
    let all: f64 = ways[n].iter().sum();
    let mut below = 0.0;
    for (u, count) in ways[n].iter().enumerate() {
        below += count / all;
        if below > tail {
            return u;
        }
    }
    size
}

/// From two to four runs each, whose logarithms are taken to be normal: Welch's interval.
pub fn by_means(before: &[f64], after: &[f64], confidence: f64) -> Ratio {
    let [before, after] = [before, after].map(|values| {
        let logs: Vec<f64> = values.iter().map(|value| value.ln()).collect();
        let (mean, variance) = moments(&logs);
        Centre { mean, error: variance / logs.len() as f64, freedom: logs.len() as f64 - 1.0, known: 0.0 }
    });
    welch(&before, &after, confidence)
}

/// How far two runs of the same thing lie apart, as the standard deviation of their logarithms. With one run on a side
/// nobody can know, so it is assumed.
pub const RUN_SPREAD: f64 = 0.03;

/// From the seconds of single runs: neighbours resemble each other, so that a run has fewer independent seconds than
/// seconds; and runs differ by more than their seconds tell, [`RUN_SPREAD`]. A side with several runs has all of them.
pub fn by_series(before: &[Vec<f64>], after: &[Vec<f64>], confidence: f64) -> Ratio {
    let [before, after] = [before, after].map(|runs| {
        let centres: Vec<_> = runs.iter().map(|series| of_series(series)).collect();
        let count = centres.len() as f64;
        Centre {
            mean: centres.iter().map(|centre| centre.mean).sum::<f64>() / count,
            error: centres.iter().map(|centre| centre.error).sum::<f64>() / (count * count),
            freedom: centres.iter().map(|centre| centre.freedom).sum(),
            known: RUN_SPREAD * RUN_SPREAD / count,
        }
    });
    welch(&before, &after, confidence)
}

/// A mean and how well it is known.
#[derive(Clone, Copy, Debug)]
struct Centre {
    mean: f64,
    /// The square of its standard error, estimated.
    error: f64,
    /// Degrees of freedom of that estimate.
    freedom: f64,
    /// What is added to the square of the standard error, and is known.
    known: f64,
}

fn welch(before: &Centre, after: &Centre, confidence: f64) -> Ratio {
    let estimated = before.error + after.error;
    let error = estimated + before.known + after.known;
    let estimate = after.mean - before.mean;
    if before.freedom <= 0.0 && before.known == 0.0 || after.freedom <= 0.0 && after.known == 0.0 {
        return Ratio::exp(estimate, f64::NEG_INFINITY, f64::INFINITY);
    }
    // Welch–Satterthwaite; what is known has no part in the sum below.
    let part = |centre: &Centre| if centre.error > 0.0 { centre.error.powi(2) / centre.freedom.max(1.0) } else { 0.0 };
    let below = part(before) + part(after);
    let tail = (1.0 - confidence) / 2.0;
    let freedom = if below > 0.0 { error.powi(2) / below } else { f64::INFINITY };
    // Beyond that many the two are the same to four digits.
    let quantile = match StudentsT::new(0.0, 1.0, freedom) {
        Ok(t) if freedom < 1e4 => -t.inverse_cdf(tail),
        _ => -Normal::standard().inverse_cdf(tail),
    };
    let reach = quantile * error.sqrt();
    Ratio::exp(estimate, estimate - reach, estimate + reach)
}

fn moments(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, if values.len() > 1 { squares / (count - 1.0) } else { 0.0 })
}

fn of_series(series: &[f64]) -> Centre {
    let logs = tamed(series);
    let (mean, variance) = moments(&logs);
    let independent = (logs.len() as f64 / correlation_time(&logs, mean)).max(1.0);
    Centre { mean, error: variance / independent, freedom: independent - 1.0, known: 0.0 }
}

/// Logarithms, with those far from the rest drawn in: one second in which the machine did something else does not
/// move the mean.
fn tamed(series: &[f64]) -> Vec<f64> {
    let logs: Vec<f64> = series.iter().map(|value| value.ln()).collect();
    let middle = median(&logs).unwrap_or_default();
    let distances: Vec<f64> = logs.iter().map(|log| (log - middle).abs()).collect();
    // 1.4826 median distances are a standard deviation of normal values.
    let far = median(&distances).unwrap_or_default() * 1.4826 * 4.0;
    if far == 0.0 { logs } else { logs.iter().map(|log| log.clamp(middle - far, middle + far)).collect() }
}

/// How many values of a series say as much as one independent value: 1 + 2 Σ ρ, summed while pairs of neighbouring
/// autocorrelations are positive together (Geyer's initial positive sequence). In a short series autocorrelations come
/// out too small, so it is at least what the first of them makes of an autoregressive series, its bias put right by
/// (1 + 4ρ) ÷ n (Kendall).
fn correlation_time(values: &[f64], mean: f64) -> f64 {
    let count = values.len();
    let covariance = |lag: usize| {
        values.iter().zip(values.iter().skip(lag)).map(|(a, b)| (a - mean) * (b - mean)).sum::<f64>() / count as f64
    };
    let variance = covariance(0);
    if variance <= 0.0 {
        return 1.0;
    }
    let mut sum = 0.0;
    for lag in (1..count / 2).step_by(2) {
        let pair = (covariance(lag) + covariance(lag + 1)) / variance;
        if pair <= 0.0 {
            break;
        }
        sum += pair;
    }
    let first = covariance(1) / variance;
    let first = (first + (1.0 + 4.0 * first) / count as f64).clamp(0.0, 0.9);
    (1.0 + 2.0 * sum).max((1.0 + first) / (1.0 - first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_those_of_the_published_tables() {
        // Critical values of U, two-sided 5% and 1%: the test refuses at U ≤ c, so k is c + 1.
        for (n, m, five, one) in [(5, 5, 2, 0), (8, 8, 13, 7), (10, 10, 23, 16), (6, 12, 14, 9), (20, 20, 127, 105)] {
            assert_eq!(mann_whitney_rank(n, m, 0.025), five + 1, "{n} {m} 5%");
            assert_eq!(mann_whitney_rank(n, m, 0.005), one + 1, "{n} {m} 1%");
        }
        assert_eq!(mann_whitney_rank(3, 3, 0.025), 0, "three and three can never tell");
        let (exact, normal) = (mann_whitney_rank(50, 50, 0.025), mann_whitney_rank(51, 51, 0.025));
        assert!((exact as i64 - 966).abs() <= 1 && normal > exact, "{exact} {normal}");
    }

    #[test]
    fn a_ratio_is_estimated_in_the_middle_of_its_interval() {
        let before: Vec<f64> = (0..10).map(|i| 100.0 + f64::from(i)).collect();
        let after: Vec<f64> = before.iter().map(|value| value * 1.2).collect();
        let ratio = by_ranks(&before, &after, 0.95);
        assert!((ratio.estimate - 1.2).abs() < 1e-9 && ratio.low > 1.15 && ratio.high < 1.26, "{ratio:?}");
        let ratio = by_means(&before[..3], &after[..3], 0.95);
        assert!((ratio.estimate - 1.2).abs() < 1e-9 && ratio.low < 1.18 && ratio.high > 1.22, "{ratio:?}");
        let alone = by_means(&before[..1], &after[..3], 0.95);
        assert_eq!((alone.low, alone.high), (0.0, f64::INFINITY));
    }

    #[test]
    fn seconds_that_resemble_each_other_count_for_less() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut noise = || (0..12).map(|_| rng.f64()).sum::<f64>() - 6.0;
        let independent: Vec<f64> = (0..4_000).map(|_| noise()).collect();
        let mut value = 0.0;
        let related: Vec<f64> = (0..4_000)
            .map(|_| {
                value = 0.6 * value + noise();
                value
            })
            .collect();
        let time = |values: &[f64]| correlation_time(values, moments(values).0);
        assert!((time(&independent) - 1.0).abs() < 0.2, "{}", time(&independent));
        // (1 + φ) ÷ (1 − φ) of an autoregressive series.
        assert!((time(&related) - 4.0).abs() < 1.0, "{}", time(&related));
    }

    #[test]
    fn one_wild_second_does_not_move_a_run() {
        let quiet: Vec<f64> = (0..30).map(|i| 100.0 + f64::from(i % 5)).collect();
        let mut wild = quiet.clone();
        wild[11] = 9_000.0;
        let ratio = by_series(std::slice::from_ref(&quiet), &[wild], 0.95);
        assert!((ratio.estimate - 1.0).abs() < 0.01 && ratio.low > 0.9 && ratio.high < 1.1, "{ratio:?}");
        let same = by_series(&[vec![4.0; 10]], &[vec![4.0; 10]], 0.95);
        assert!(same.estimate == 1.0 && same.low < 1.0 && same.high > 1.0, "{same:?}");
    }
}
