//! The style sheet of every page: one look for light and dark, phone, desk and paper.

/// The style sheet, without the colours and the drawings' own: see [`crate::palette`].
pub const STYLE: &str = "
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
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(max(148px, calc(100% / var(--columns) - 12px)), 1fr)); gap: 12px;
  margin: 20px 0; padding: 0; }
.tile, figure, .card { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; }
.tile { padding: 12px 14px; }
.tile .name { font-size: .9rem; color: var(--soft); }
.tile .value { font-size: 1.6rem; font-weight: 650; line-height: 1.25; }
.tile .what { font-size: .85rem; color: var(--soft); line-height: 1.35; }
.card { padding: 14px 18px; margin: 14px 0; }
.warnings { background: var(--warn-bg); color: var(--warn); border-radius: 8px; padding: 12px 18px; margin: 16px 0; }
.warnings ul, .tight { margin: 4px 0; padding-left: 20px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 470px), 1fr)); gap: 16px; }
figure:only-child { max-width: 590px; }
figure { margin: 0; padding: 14px 14px 8px; break-inside: avoid; }
svg { display: block; width: 100%; height: auto; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 2px 16px; margin: 4px 0; padding: 0; font-size: .92rem; }
.swatch { display: inline-block; width: 22px; margin-right: 6px; vertical-align: middle; border-top: 3px solid var(--c0); }
.swatch1 { border-top: 3px dashed var(--c1); } .swatch2 { border-top: 3px dotted var(--c2); }
.swatch3 { border-top: 3px dashed var(--c3); } .swatch4 { border-top-color: var(--c4); } .swatch5 { border-top-color: var(--c5); }
.swatchdot { display: inline-block; width: 11px; height: 11px; border-radius: 50%; margin-right: 6px; background: var(--c0); }
.swatchdot1 { background: var(--c1); } .swatchdot2 { background: var(--c2); } .swatchdot3 { background: var(--c3); }
.swatchdot4 { background: var(--c4); } .swatchdot5 { background: var(--c5); }
.block { display: inline-block; width: 13px; height: 13px; border-radius: 2px; margin-right: 6px; vertical-align: -2px; }
.block0 { background: var(--c0); } .block1 { background: var(--c1); } .block2 { background: var(--c2); }
.block3 { background: var(--c3); } .block4 { background: var(--c4); } .block5 { background: var(--rest); }
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
