//! One's own requests as CSV: arrival_s (seconds), prompt_tokens, output_tokens, and where they are known tenant, session
//! and priority, in any order and among other columns.

use super::TraceRow;
use super::fields::{Read, columns, pick, time, tokens, wrong};

pub(super) const COLUMNS: [&str; 3] = ["arrival_s", "prompt_tokens", "output_tokens"];

/// Where the columns are.
pub(super) struct Columns {
    needed: [usize; 3],
    tenant: Option<usize>,
    session: Option<usize>,
    priority: Option<usize>,
}

impl Columns {
    /// Those of a header.
    pub fn of(header: &str) -> Read<Columns> {
        let optional = |name| columns(header, [name]).ok().map(|[position]| position);
        Ok(Columns {
            needed: columns(header, COLUMNS)?,
            tenant: optional("tenant"),
            session: optional("session"),
            priority: optional("priority"),
        })
    }

    /// The row in `line`.
    pub fn parse(&self, line: &str) -> Read<TraceRow> {
        let [at, prompt, output] = pick(line, &self.needed, COLUMNS)?;
        let optional = |position: Option<usize>, name| {
            position.map(|position| pick(line, &[position], [name]).map(|[field]| field)).transpose()
        };
        let tenant = optional(self.tenant, "tenant")?;
        if tenant == Some("") {
            return Err(wrong("tenant", "", "a tenant's name"));
        }
        let known = |text: &&str| !text.is_empty();
        let session = optional(self.session, "session")?.filter(known).map(|text| {
            text.parse().map_err(|_| wrong("session", text, &format!("a whole number, 0 to {}", u32::MAX)))
        });
        let priority = optional(self.priority, "priority")?.filter(known).map(|text| {
            let expected = format!("a whole number, {} to {}", i32::MIN, i32::MAX);
            text.parse::<i32>().map_err(|_| wrong("priority", text, &expected))
        });
        Ok(TraceRow {
            at_ns: time(COLUMNS[0], at, 1_000_000_000)?,
            prompt_tokens: tokens(COLUMNS[1], prompt)?,
            output_tokens: tokens(COLUMNS[2], output)?,
            tenant: tenant.map(Into::into),
            session: session.transpose()?,
            priority: priority.transpose()?,
            ..TraceRow::default()
        })
    }
}
