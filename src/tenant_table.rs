//! What a run says of each tenant, as people read it.

use comfy_table::{CellAlignment, Table, TableStyle};
use reports::numbers::{grouped, percent, short};
use sim::metrics::Distribution;
use sim::tenants::{TenantReport, TenantsReport};

/// One line per tenant, and the fairness index.
pub fn text(tenants: &TenantsReport) -> String {
    let mut table = Table::new();
    table.load_style(TableStyle::new());
    table.set_header([
        "Tenant",
        "arrived",
        "finished",
        "rejected",
        "throttled",
        "tokens/s",
        "gate p99",
        "TTFT p50",
        "TTFT p99",
        "max ITL p99",
        "E2EL p50",
        "E2EL p99",
        "SLO met",
    ]);
    for tenant in &tenants.members {
        table.add_row(row(tenant));
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((if index == 0 { 0 } else { 2 }, 1));
        if index > 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_string()).collect();
    let fairness = short(tenants.fairness);
    format!(
        "{}\nFairness      {fairness} (Jain's index of tokens served per weight; times in ms)",
        lines.join("\n")
    )
}

fn row(tenant: &TenantReport) -> Vec<String> {
    let ms = |distribution: &Option<Distribution>, of: fn(&Distribution) -> f64| {
        distribution.as_ref().map_or_else(|| "-".to_string(), |d| short(of(d)))
    };
    let counts = &tenant.requests;
    vec![
        tenant.name.clone(),
        grouped(counts.arrived),
        grouped(counts.finished),
        grouped(counts.rejected),
        grouped(counts.throttled),
        short(tenant.output_tokens_per_s),
        ms(&tenant.gate_ms, |d| d.p99),
        ms(&tenant.ttft_ms, |d| d.p50),
        ms(&tenant.ttft_ms, |d| d.p99),
        ms(&tenant.max_itl_ms, |d| d.p99),
        ms(&tenant.e2el_ms, |d| d.p50),
        ms(&tenant.e2el_ms, |d| d.p99),
        tenant.goodput.as_ref().map_or_else(|| "-".to_string(), |goodput| percent(goodput.share)),
    ]
}
