//! Minimum of a function of a few variables without derivatives.

/// Nelder and Mead's simplex (Computer Journal 7, 1965) with the usual coefficients, from `start` with edges of
/// `edge`. Answers the best point after at most `evaluations` evaluations. A value that is not a number counts as
/// infinitely bad.
pub(crate) fn simplex(
    start: &[f64],
    edge: f64,
    evaluations: usize,
    mut cost: impl FnMut(&[f64]) -> f64,
) -> Vec<f64> {
    let count = start.len();
    let mut evaluate = |point: &[f64]| {
        let value = cost(point);
        if value.is_nan() { f64::INFINITY } else { value }
    };
    let mut points: Vec<(f64, Vec<f64>)> = (0..=count)
        .map(|corner| {
            let mut point = start.to_vec();
            if corner > 0 {
                point[corner - 1] += edge;
            }
            (evaluate(&point), point)
        })
        .collect();
    let mut used = count + 1;
    while used < evaluations && count > 0 {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        if points[count].0 - points[0].0 < 1e-9 {
            break;
        }
        let centre: Vec<f64> = (0..count)
            .map(|axis| points[..count].iter().map(|(_, point)| point[axis]).sum::<f64>() / count as f64)
            .collect();
        let towards = |factor: f64, worst: &[f64]| -> Vec<f64> {
            centre.iter().zip(worst).map(|(centre, worst)| centre + factor * (centre - worst)).collect()
        };
        let reflected = towards(1.0, &points[count].1);
        let value = evaluate(&reflected);
        used += 1;
        if value < points[0].0 {
            let expanded = towards(2.0, &points[count].1);
            let further = evaluate(&expanded);
            used += 1;
            points[count] = if further < value { (further, expanded) } else { (value, reflected) };
        } else if value < points[count - 1].0 {
            points[count] = (value, reflected);
        } else {
            let factor = if value < points[count].0 { 0.5 } else { -0.5 };
            let contracted = towards(factor, &points[count].1);
            let closer = evaluate(&contracted);
            used += 1;
            if closer < value.min(points[count].0) {
                points[count] = (closer, contracted);
            } else {
                let best = points[0].1.clone();
                for (value, point) in &mut points[1..] {
                    for (axis, best) in point.iter_mut().zip(&best) {
                        *axis = best + 0.5 * (*axis - best);
                    }
                    *value = evaluate(point);
                }
                used += count;
            }
        }
    }
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    points.swap_remove(0).1
}

#[cfg(test)]
mod tests {
    use super::simplex;

    #[test]
    fn finds_the_minimum_of_a_curved_valley() {
        let best =
            simplex(&[-1.2, 1.0], 0.5, 2000, |p| (1.0 - p[0]).powi(2) + 100.0 * (p[1] - p[0] * p[0]).powi(2));
        assert!((best[0] - 1.0).abs() < 1e-3 && (best[1] - 1.0).abs() < 1e-3, "{best:?}");
    }

    #[test]
    fn steps_around_values_that_are_no_numbers() {
        let best = simplex(&[3.0], 1.0, 500, |p| if p[0] < 1.0 { f64::NAN } else { p[0] });
        assert!((best[0] - 1.0).abs() < 1e-3, "{best:?}");
    }
}
