//! The style sheet of every page: one look for light and dark, phone, desk and paper.

/// The style sheet.
pub const STYLE: &str = "
:root { --bg: #fcfcfb; --card: #ffffff; --ink: #1c1f23; --soft: #5a626c; --rule: #e1e4e8; --accent: #1f6fc4;
  --warn-bg: #fff4dc; --warn: #7a4b00; --good: #14764a; --bad: #b3261e;
  --c0: #1f6fc4; --c1: #d1541b; --c2: #17855a; --c3: #8a4fc7; --c4: #a3791a; --c5: #5b6570; }
@media (prefers-color-scheme: dark) { :root { --bg: #15181c; --card: #1d2126; --ink: #e8eaed; --soft: #a7afb9;
  --rule: #343a42; --accent: #78b4f5; --warn-bg: #3a2e12; --warn: #f3cf84; --good: #63d09d; --bad: #ff8a80;
  --c0: #6fb1f5; --c1: #ff9863; --c2: #58c99a; --c3: #c29bf2; --c4: #e0bd5a; --c5: #a7afb9; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 6px; }
h2 { font-size: 1.25rem; margin: 40px 0 12px; }
h3 { font-size: 1.05rem; margin: 0; }
p { margin: 6px 0; }
.lead { font-size: 1.1rem; }
.soft, .note { color: var(--soft); }
.note { font-size: .92rem; margin: 2px 0 6px; }
.good { color: var(--good); } .bad { color: var(--bad); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 12px; margin: 20px 0; padding: 0; }
.tile, figure, .card { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; }
.tile { padding: 12px 14px; }
.tile .name { font-size: .9rem; color: var(--soft); }
.tile .value { font-size: 1.6rem; font-weight: 650; line-height: 1.25; }
.tile .what { font-size: .85rem; color: var(--soft); line-height: 1.35; }
.card { padding: 14px 18px; margin: 14px 0; }
.warnings { background: var(--warn-bg); color: var(--warn); border-radius: 8px; padding: 12px 18px; margin: 16px 0; }
.warnings ul { margin: 4px 0; padding-left: 20px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 470px), 1fr)); gap: 16px; }
figure { margin: 0; padding: 14px 14px 8px; break-inside: avoid; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font-size: 13px; font-family: inherit; }
svg .label { fill: var(--ink); } svg .marktext { fill: var(--ink); font-style: italic; }
.grid { stroke: var(--rule); stroke-width: 1; } .axis { stroke: var(--soft); stroke-width: 1.2; }
.mark { stroke: var(--ink); stroke-width: 1.2; stroke-dasharray: 5 4; }
.line { fill: none; stroke-width: 2.2; stroke-linejoin: round; }
.line0 { stroke: var(--c0); } .line1 { stroke: var(--c1); } .line2 { stroke: var(--c2); }
.line3 { stroke: var(--c3); } .line4 { stroke: var(--c4); } .line5 { stroke: var(--c5); }
.line1 { stroke-dasharray: 12 2; } .line2 { stroke-dasharray: 3 3; } .line3 { stroke-dasharray: 12 3 3 3; }
.dot0 { fill: var(--c0); } .dot1 { fill: var(--c1); } .dot2 { fill: var(--c2); }
.dot3 { fill: var(--c3); } .dot4 { fill: var(--c4); } .dot5 { fill: var(--c5); }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 2px 16px; margin: 4px 0; padding: 0; font-size: .92rem; }
.swatch { display: inline-block; width: 22px; margin-right: 6px; vertical-align: middle; border-top: 3px solid var(--c0); }
.swatch1 { border-top: 3px dashed var(--c1); } .swatch2 { border-top: 3px dotted var(--c2); }
.swatch3 { border-top: 3px dashed var(--c3); } .swatch4 { border-top-color: var(--c4); } .swatch5 { border-top-color: var(--c5); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 10px; border-bottom: 1px solid var(--rule); text-align: right; white-space: nowrap; }
th { font-weight: 600; color: var(--soft); font-size: .9rem; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td.text, th.text { text-align: left; white-space: normal; min-width: 11em; }
tr.best td { font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 18px; margin: 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
pre { overflow-x: auto; font-size: .88rem; line-height: 1.45; margin: 10px 0 0; }
summary { cursor: pointer; }
@media (max-width: 600px) { main { padding: 18px 14px 40px; } h1 { font-size: 1.4rem; } .tiles { grid-template-columns: 1fr 1fr; gap: 8px; }
  .tile { padding: 10px; } .tile .value { font-size: 1.3rem; } figure { padding: 12px 8px 6px; } svg text { font-size: 16px; }
  th, td { padding: 6px 7px; } td.text { min-width: 0; white-space: nowrap; } dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: 8px; } }
@media print { body { background: #fff; font-size: 12px; } main { max-width: none; padding: 0; }
  .charts { grid-template-columns: 1fr 1fr; } .tile, figure, .card, tr { break-inside: avoid; } }
";
