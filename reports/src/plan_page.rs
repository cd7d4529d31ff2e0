//! The page of a plan: the recommendation on the first screen, then the evidence.

use crate::charts::{Axis, Chart, Mark, Series};
use crate::numbers::{duration_ms, grouped, percent, short};
use crate::page::{Tile, chart_grid, document, tiles, warnings};
use maud::{Markup, html};
use planner::answer::{Candidate, Measured, Plan, Stage, deployment_name, latency_name};
use planner::seeds::Estimate;

/// Deployments that the page lists.
const LISTED: usize = 30;

/// The page.
pub fn plan_page(plan: &Plan) -> String {
    let body = html! {
        @match plan.candidates.first() {
            Some(best) => {
                h1 { "Use " (headline(best)) }
                p.lead { (sentence(plan, best)) }
                (goal(plan))
                (tiles(&best_tiles(plan, best)))
                div.card { strong { "The deployment. " } (settings(best)) }
                div.card { strong { "To hold more. " } "Bound by " (best.binding.name()) ": "
                    (best.next_change) "." }
                (trust(plan))
                (warnings(&plan.warnings().iter().map(String::as_str).collect::<Vec<_>>()))
                @if let Some(sure) = &plan.confirmation {
                    div.card { strong { "Other seeds. " }
                        (sure.keep_the_goal) " of " (sure.seeds) " seeds keep the goal; TTFT p99 "
                        (estimate(sure.ttft_p99_ms)) ", ITL p99 " (estimate(sure.itl_p99_ms)) " (95 % intervals)." }
                }
                h2 { "Why this one" }
                (chart_grid(&charts(plan, best)))
                h2 { "The deployments that meet the goal" }
                div.card.scroll { (table(plan)) }
            }
            None => {
                h1 { "No deployment meets the goal" }
                (goal(plan))
                @if let Some(miss) = plan.nearest_miss() {
                    div.card { strong { "Nearest miss. " } (deployment_name(&miss.deployment)) ": " (miss.reason) "." }
                }
                (trust(plan))
            }
        }
        h2 { "Why the others fell out" }
        div.card.scroll { (fallen(plan)) }
    };
    document(&format!("{}: servesim plan", plan.scenario), &body)
}

fn headline(best: &Candidate) -> String {
    let gpu = best.deployment.get("gpu").map_or("GPU", String::as_str);
    let replicas =
        if best.replicas == 1 { "1 replica".into() } else { format!("{} replicas", best.replicas) };
    format!("{} × {gpu} in {replicas}", best.gpus)
}

fn sentence(plan: &Plan, best: &Candidate) -> String {
    let holds = short(best.holds_per_s);
    let rate = match (plan.wanted_per_s, best.headroom) {
        (Some(wanted), Some(headroom)) => {
            format!(
                "It carries the {} requests/s wanted and holds up to {holds}, {} more",
                short(wanted),
                percent(headroom)
            )
        }
        _ => format!("It holds {holds} requests/s, the most of all per unit of cost"),
    };
    format!("{rate}.")
}

/// What each value of a deployment means.
const MEANINGS: [(&str, &str); 10] = [
    ("tensor_parallel", "GPUs that share each layer"),
    ("pipeline_parallel", "stages of layers, one after the other"),
    ("data_parallel", "engines that divide the requests inside a replica"),
    ("expert_parallel", "GPUs that share the experts"),
    ("replicas", "copies of the engine behind the router"),
    ("quantization", "format of the weights"),
    ("kv_cache_dtype", "format of the KV cache"),
    ("max_num_seqs", "requests that run at once"),
    ("max_num_batched_tokens", "tokens that a step may compute"),
    ("enable_prefix_caching", "whether prompts' shared beginnings are kept"),
];

/// The values that the plan chose; the rest is as in the scenario.
fn settings(best: &Candidate) -> Markup {
    let value = |key: &str| best.deployment.get(key).map(String::as_str);
    html! {
        @if best.deployment.is_empty() { "As in the scenario." } @else { "The rest is as in the scenario." }
        dl {
            @if let Some(gpu) = value("gpu") { dt { "gpu" } dd { (gpu) } }
            @for (key, what) in MEANINGS {
                @if let Some(value) = value(key) { dt { (key) } dd { (value) span.soft { ", " (what) } } }
            }
        }
    }
}

fn goal(plan: &Plan) -> Markup {
    let limits: Vec<String> =
        plan.limits.iter().map(|l| format!("{} ≤ {}", latency_name(l.key), duration_ms(l.most_ms))).collect();
    html! {
        p.soft {
            "Goal: " (limits.join(", ")) ". Model " (plan.model) ", scenario " (plan.scenario) ", seed " (plan.seed) ". "
            (grouped(plan.considered as u64)) " deployments considered, " (grouped(plan.candidates.len() as u64))
            " meet the goal. Simulated by servesim " (plan.servesim) "."
        }
    }
}

fn trust(plan: &Plan) -> Markup {
    html! {
        div.card { strong { "How far to trust it. " }
            "Each rate was simulated with the same requests, closer together or further apart. The highest rate is "
            "bracketed within 2 % and both ends were checked again. "
            @match plan.step_times.as_slice() {
                [] => {}
                [one] => { "Step times are " (one) "." }
                many => {
                    @if let Some(best) = plan.candidates.first() {
                        "Step times of the recommended deployment are " (best.step_times) ". "
                    }
                    "Those of all are" ul.tight { @for source in many { li { (source) } } }
                }
            }
        }
    }
}

fn estimate(value: Option<Estimate>) -> String {
    let Some(value) = value else { return "none".into() };
    match value.half_width {
        Some(half) => format!("{} ± {} ms", short(value.mean), short(half)),
        None => duration_ms(value.mean),
    }
}

fn best_tiles(plan: &Plan, best: &Candidate) -> Vec<Tile> {
    let mut all = Vec::new();
    if let Some(usd) = best.usd_per_hour {
        let per_million = best.usd_per_million_output_tokens.unwrap_or(0.0);
        all.push(Tile::new(
            "USD per hour",
            format!("{usd:.2}"),
            format!("{per_million:.2} USD per million output tokens"),
        ));
    }
    all.push(Tile::new(
        "Holds",
        format!("{}/s", short(best.holds_per_s)),
        match best.fails_per_s {
            Some(rate) => {
                format!("requests; {} breaks at {}/s", latency_name(&best.breaks_first), short(rate))
            }
            None => "requests; no rate was found that it does not hold".into(),
        },
    ));
    if let Some(headroom) = best.headroom {
        all.push(Tile::new("Headroom", percent(headroom), "above the wanted rate, before the goal breaks"));
    }
    let at = plan.wanted_per_s.map_or("at the highest rate", |_| "at the wanted rate");
    let latency = |value: Option<f64>| value.map_or("none".into(), duration_ms);
    let against = |key: &str| match plan.limits.iter().find(|limit| limit.key == key) {
        Some(limit) => format!("{at}; the goal is {}", duration_ms(limit.most_ms)),
        None => at.to_string(),
    };
    for key in plan.shown_latencies() {
        all.push(Tile::new(&latency_name(key), latency(best.carries.latency_ms(key)), against(key)));
    }
    let peak = format!("{} requests per step on average", short(best.carries.batch_mean));
    all.push(Tile::new("KV cache peak", percent(best.carries.kv_peak_share), peak));
    all
}

/// The limit on a metric's 99th percentile, as a line across a chart.
fn limit(plan: &Plan, key: &str) -> Vec<Mark> {
    let limits = plan.limits.iter().filter(|limit| limit.key == key);
    limits.map(|limit| Mark { value: limit.most_ms, text: "goal".into(), on_x: false }).collect()
}

fn charts(plan: &Plan, best: &Candidate) -> Vec<Chart> {
    let copies = best.holds_per_s / best.at_highest.rate_per_s;
    let curve = |key: &'static str| {
        let name = latency_name(key);
        let value = |tried: &Measured| Some((tried.rate_per_s * copies, tried.latency_ms(key)?));
        let points = best.tried.iter().filter_map(value).collect();
        let knee = Mark { value: best.holds_per_s, text: "holds".into(), on_x: true };
        Chart {
            title: format!("{name} against the rate"),
            note: "The recommended deployment at every rate that was tried. Right of the upright line the goal breaks.".into(),
            x: Axis::linear("requests/s"),
            y: Axis::log(format!("{name} (ms)")),
            series: vec![Series::marked(&name, points)],
            marks: limit(plan, key).into_iter().chain([knee]).collect(),
        }
    };
    let has_prices = plan.candidates.iter().all(|c| c.usd_per_hour.is_some());
    let cost = |c: &Candidate| c.usd_per_hour.unwrap_or(f64::from(c.gpus));
    let front = |on: fn(&Candidate) -> bool, point: &dyn Fn(&Candidate) -> Option<(f64, f64)>| {
        let of =
            |wanted: bool| plan.candidates.iter().filter(|c| on(c) == wanted).filter_map(point).collect();
        vec![
            Series::scatter("beaten by another", of(false)),
            Series::scatter("on the front", of(true)),
            Series::scatter("recommended", point(best).into_iter().collect()),
        ]
    };
    let fronts = [
        Chart {
            title: "Cost against time to first token".into(),
            note: "One dot per deployment that meets the goal. On the front: none is cheaper and faster."
                .into(),
            x: Axis::log(if has_prices { "USD per hour" } else { "GPUs" }),
            y: Axis::linear("TTFT p99 (ms)"),
            series: front(|c| c.is_on_cost_front, &|c| Some((cost(c), c.carries.ttft_p99_ms?))),
            marks: limit(plan, "ttft_p99"),
        },
        Chart {
            title: "Throughput per GPU against speed for each user".into(),
            note: "At each deployment's highest rate. On the front: none gives more of both.".into(),
            x: Axis::linear("output tokens/s per user (median)"),
            y: Axis::linear("output tokens/s per GPU"),
            series: front(|c| c.is_on_throughput_front, &|c| {
                Some((1000.0 / c.at_highest.tpot_p50_ms?, c.output_tokens_per_s_and_gpu))
            }),
            marks: Vec::new(),
        },
    ];
    plan.shown_latencies().into_iter().map(curve).chain(fronts).collect()
}

fn table(plan: &Plan) -> Markup {
    let usd = |value: Option<f64>| value.map_or("-".into(), |usd| format!("{usd:.2}"));
    let ms = |value: Option<f64>| value.map_or("-".into(), duration_ms);
    html! {
        table {
            thead { tr {
                th.text { "deployment" } th { "GPUs" } th { "USD/h" } th { "USD/Mtok" } th { "holds/s" }
                th { "headroom" } th { "tok/s/GPU" }
                @for key in plan.shown_latencies() { th { (latency_name(key)) } } th.text { "bound by" }
            } }
            tbody {
                @for (index, c) in plan.candidates.iter().take(LISTED).enumerate() {
                    tr.best[index == 0] {
                        td.text { (deployment_name(&c.deployment)) } td { (grouped(u64::from(c.gpus))) } td { (usd(c.usd_per_hour)) }
                        td { (usd(c.usd_per_million_output_tokens)) } td { (short(c.holds_per_s)) }
                        td { (c.headroom.map_or("-".into(), percent)) } td { (short(c.output_tokens_per_s_and_gpu)) }
                        @for key in plan.shown_latencies() { td { (ms(c.carries.latency_ms(key))) } }
                        td.text { (c.binding.name()) }
                    }
                }
            }
        }
        @if plan.candidates.len() > LISTED {
            p.note { "and " (plan.candidates.len() - LISTED) " more" }
        }
    }
}

fn fallen(plan: &Plan) -> Markup {
    let stages =
        [Stage::Invalid, Stage::Memory, Stage::Budget, Stage::NotModelled, Stage::Roofline, Stage::Simulated];
    html! {
        @if plan.fallen.is_empty() { p.note { "None did." } }
        @for stage in stages {
            @let of_stage: Vec<_> = plan.fallen.iter().filter(|fallen| fallen.stage == stage).collect();
            @if !of_stage.is_empty() {
                details {
                    summary { (of_stage.len()) " " (stage.what()) }
                    ul { @for fallen in of_stage { li { (deployment_name(&fallen.deployment)) ": " (fallen.reason) } } }
                }
            }
        }
    }
}
