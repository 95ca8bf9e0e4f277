//! Mean and standard deviation.

/// Mean and standard deviation of a whole population (not of a sample of it): divided by n, as Envoy does.
/// Of nothing, zero and zero.
pub(super) fn mean_and_deviation(values: impl ExactSizeIterator<Item = f64> + Clone) -> (f64, f64) {
    let count = values.len().max(1) as f64;
    let mean = values.clone().sum::<f64>() / count;
    let variance = values.map(|value| (value - mean) * (value - mean)).sum::<f64>() / count;
    (mean, libm::sqrt(variance))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_populations() {
        for (values, mean, deviation) in [
            (&[][..], 0.0, 0.0),
            (&[42.0], 42.0, 0.0),
            (&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0], 5.0, 2.0),
            (&[100.0, 100.0, 100.0, 100.0, 50.0], 90.0, 20.0),
        ] {
            assert_eq!(mean_and_deviation(values.iter().copied()), (mean, deviation), "{values:?}");
        }
    }
}
