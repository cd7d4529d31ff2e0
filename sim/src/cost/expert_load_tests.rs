use super::*;

fn group(experts: u32, experts_per_token: u32, ranks: u32) -> ExpertGroup {
    let placement = Placement::Linear;
    ExpertGroup { experts, experts_per_token, layers: 4, ranks, redundant: 0, placement }
}

/// Loads of random picks against the formulas: 40,000 tokens of 8 out of 64 experts by Zipf, drawn one by one.
#[test]
fn loads_are_those_of_tokens_drawn_one_by_one() {
    let spread = group(64, 8, 8);
    let weights: Vec<f64> = (1..=64).map(|rank| libm::pow(f64::from(rank), -0.7)).collect();
    let chances = without_repeats(&weights, 8.0);
    assert!((chances.iter().sum::<f64>() - 8.0).abs() < 1e-9);
    let layer = Layer::new(&place(&spread, &chances), &chances, false);
    let mut random = rng::stream(3, "test");
    let mut unit = || (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    for batch in [4usize, 64, 1024] {
        let rounds = 40_000 / batch;
        let (mut largest, mut touched) = (0.0, [0.0; 8]);
        for _ in 0..rounds {
            let (mut loads, mut seen) = ([0.0; 8], [false; 64]);
            for _ in 0..batch {
                let mut times: Vec<(f64, usize)> =
                    weights.iter().enumerate().map(|(e, w)| (-libm::log(1.0 - unit()) / w, e)).collect();
                times.sort_by(|a, b| a.0.total_cmp(&b.0));
                for (_, expert) in &times[..8] {
                    loads[expert / 8] += 1.0;
                    seen[*expert] = true;
                }
            }
            largest += loads.iter().copied().fold(0.0, f64::max) / rounds as f64;
            for (rank, sum) in touched.iter_mut().enumerate() {
                *sum += seen[8 * rank..8 * rank + 8].iter().filter(|s| **s).count() as f64 / rounds as f64;
            }
        }
        let drawn = largest / batch as f64;
        let formula = layer.busiest(batch as f64);
        assert!((formula / drawn - 1.0).abs() < 0.03, "{batch}: {formula} against {drawn}");
        let (most, formula) = (touched.iter().copied().fold(0.0, f64::max), layer.touched(batch as f64));
        assert!((formula / most - 1.0).abs() < 0.03, "{batch}: {formula} against {most} experts");
    }
}

#[test]
fn balanced_routing_has_no_busiest_rank_unless_the_experts_do_not_divide() {
    let even = ExpertLoad::new(&group(128, 8, 8), &Popularity::Balanced, 1);
    assert_eq!(even.even_tokens(300.0), 300.0);
    assert_eq!((even.touched(1.0), even.touched(4.0), even.touched(4096.0)), (1.0, 4.0, 16.0));
    // 10 experts over 4 ranks: 3, 3, 2, 2.
    let uneven = ExpertLoad::new(&group(10, 2, 4), &Popularity::Balanced, 1);
    assert!((uneven.even_tokens(100.0) - 120.0).abs() < 1e-9);
}

#[test]
fn random_choices_even_out_with_more_tokens_and_skew_does_not() {
    let at = |popularity: &Popularity, tokens: f64| {
        ExpertLoad::new(&group(256, 8, 8), popularity, 1).even_tokens(tokens) / tokens
    };
    let uniform = [1.0, 16.0, 256.0, 65_536.0].map(|tokens| at(&Popularity::Uniform, tokens));
    assert!(uniform.is_sorted_by(|a, b| a > b), "{uniform:?}");
    assert!(uniform[3] < 1.02, "{uniform:?}");
    let skews = [0.0, 0.3, 0.6, 1.0, 1.5].map(|s| at(&Popularity::Zipf(s), 65_536.0));
    assert!(skews.is_sorted_by(|a, b| a < b) && skews[4] > 1.5, "{skews:?}");
}

#[test]
fn histograms_give_the_loads_they_count() {
    // Two ranks: 3 of 4 tokens go to the first two of four experts.
    let counts = Popularity::Histogram(vec![vec![50, 25, 20, 5]; 4]);
    let spread = ExpertGroup { experts_per_token: 1, ..group(4, 1, 2) };
    let load = ExpertLoad::new(&spread, &counts, 1);
    assert!((load.even_tokens(65_536.0) / 65_536.0 - 1.5).abs() < 0.01);
    // In turn: 50 + 20 against 25 + 5.
    let turn = ExpertGroup { placement: Placement::RoundRobin, ..spread };
    assert!((ExpertLoad::new(&turn, &counts, 1).even_tokens(65_536.0) / 65_536.0 - 1.4).abs() < 0.01);
    // 50 | 25, then 20 to the second, and 5 where room is left.
    let balanced = ExpertGroup { placement: Placement::LoadBalanced, ..spread };
    assert!((ExpertLoad::new(&balanced, &counts, 1).even_tokens(65_536.0) / 65_536.0 - 1.1).abs() < 0.01);
}

#[test]
fn second_copies_of_hot_experts_take_the_load_off_the_busiest_rank() {
    let zipf = Popularity::Zipf(1.0);
    let plain = group(256, 8, 8);
    let at = |group: &ExpertGroup| ExpertLoad::new(group, &zipf, 1).even_tokens(8192.0) / 8192.0;
    let balanced = ExpertGroup { placement: Placement::LoadBalanced, ..plain };
    let copied = ExpertGroup { redundant: 32, ..balanced };
    assert!(at(&plain) > at(&balanced) && at(&balanced) >= at(&copied), "{}", at(&copied));
    assert!(at(&copied) < 1.05, "{}", at(&copied));
    let held: usize = place(&copied, &chances(&copied, &zipf, 1)[0]).iter().map(Vec::len).sum();
    assert_eq!(held, 288);
}

#[test]
fn tokens_reach_no_more_ranks_than_they_have_experts() {
    let even = ExpertLoad::new(&group(256, 8, 8), &Popularity::Uniform, 1);
    assert!((even.busiest_receiver - 1.0).abs() < 1e-9);
    assert!(even.ranks_per_token > 5.0 && even.ranks_per_token < 8.0, "{}", even.ranks_per_token);
    let skewed = ExpertLoad::new(&group(256, 8, 8), &Popularity::Zipf(1.2), 1);
    assert!(skewed.busiest_receiver > 1.1 && skewed.ranks_per_token < even.ranks_per_token);
}
