//! Rows as a table: named columns of one kind each, as files of columns hold them.

use crate::rows::{RequestRow, StepRow};

/// The values of a column; none where there is nothing.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// Whole numbers from 0.
    Whole(Vec<Option<u64>>),
    /// Whole numbers of either sign.
    Signed(Vec<Option<i64>>),
    /// Real numbers.
    Real(Vec<Option<f64>>),
    /// Texts.
    Text(Vec<Option<String>>),
}

/// A column.
#[derive(Debug, Clone, PartialEq)]
pub struct TableColumn {
    /// Its name, unit last.
    pub name: String,
    /// One value per row.
    pub values: Values,
}

/// Columns of equal length.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Table {
    /// In their order.
    pub columns: Vec<TableColumn>,
}

impl Table {
    /// Adds a column.
    pub fn push(&mut self, name: impl Into<String>, values: Values) {
        self.columns.push(TableColumn { name: name.into(), values });
    }
}

/// A table of one row per `$rows`, with the row's own fields as columns.
macro_rules! table {
    ($rows:expr; $($kind:ident $name:ident = $value:expr),* $(,)?) => {{
        let mut table = Table::default();
        $(table.push(stringify!($name), Values::$kind($rows.iter().map($value).collect()));)*
        table
    }};
}

/// The table of requests: the fields of [`RequestRow`] as columns, those of tenants and of tiers where there are any.
pub fn requests(rows: &[RequestRow]) -> Table {
    let mut table = table! { rows;
        Whole id = |row| Some(row.id.into()),
        Whole replica = |row| Some(row.replica.into()),
        Text outcome = |row| Some(row.outcome.name().to_string()),
        Whole arrival_ns = |row| Some(row.arrival_ns),
        Whole prompt_tokens = |row| Some(row.prompt_tokens.into()),
        Whole output_tokens = |row| Some(row.output_tokens.into()),
        Signed priority = |row| Some(row.priority.into()),
        Whole first_scheduled_ns = |row| row.first_scheduled_ns,
        Whole first_token_ns = |row| row.first_token_ns,
        Whole last_token_ns = |row| row.last_token_ns,
        Whole ttft_ns = |row| row.ttft_ns,
        Whole tpot_ns = |row| row.tpot_ns,
        Whole max_itl_ns = |row| Some(row.max_itl_ns),
        Whole e2el_ns = |row| row.e2el_ns,
        Whole preemptions = |row| Some(row.preemptions.into()),
        Whole cached_tokens = |row| Some(row.cached_tokens.into()),
    };
    if rows.iter().any(|row| row.loaded_tokens.is_some()) {
        let loaded = rows.iter().map(|row| row.loaded_tokens.map(u64::from)).collect();
        table.push("loaded_tokens", Values::Whole(loaded));
    }
    if rows.iter().any(|row| row.tenant.is_some()) {
        let of_tenants = table! { rows;
            Whole tenant = |row| row.tenant.map(u64::from),
            Whole gate_ns = |row| row.gate_ns,
        };
        table.columns.extend(of_tenants.columns);
    }
    table
}

/// The table of steps: the fields of [`StepRow`] as columns.
pub fn steps(rows: &[StepRow]) -> Table {
    table! { rows;
        Whole replica = |row| Some(row.replica.into()),
        Whole start_ns = |row| Some(row.start_ns),
        Whole duration_ns = |row| Some(row.duration_ns),
        Whole batch_requests = |row| Some(row.batch_requests),
        Whole new_tokens = |row| Some(row.new_tokens),
        Whole prefill_tokens = |row| Some(row.prefill_tokens),
        Whole prefill_requests = |row| Some(row.prefill_requests),
        Whole decode_requests = |row| Some(row.decode_requests),
        Whole context_tokens = |row| Some(row.context_tokens),
        Whole sampled_requests = |row| Some(row.sampled_requests),
        Whole preempted_requests = |row| Some(row.preempted_requests),
        Whole running_requests = |row| Some(row.running_requests.into()),
        Whole waiting_requests = |row| Some(row.waiting_requests.into()),
        Whole free_blocks = |row| Some(row.free_blocks.into()),
    }
}
