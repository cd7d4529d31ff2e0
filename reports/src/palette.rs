//! The colours of every page and drawing. The series' colours can be told apart by colour-blind readers, and lines also
//! differ in their dashes.

/// A named colour: on a light ground, on a dark one.
type Colour = (&'static str, &'static str, &'static str);

const COLOURS: [Colour; 18] = [
    ("bg", "#fcfcfb", "#15181c"),
    ("card", "#ffffff", "#1d2126"),
    ("ink", "#1c1f23", "#e8eaed"),
    ("soft", "#5a626c", "#a7afb9"),
    ("rule", "#e1e4e8", "#343a42"),
    ("accent", "#1f6fc4", "#78b4f5"),
    ("warn-bg", "#fff4dc", "#3a2e12"),
    ("warn", "#7a4b00", "#f3cf84"),
    ("good", "#14764a", "#63d09d"),
    ("bad", "#b3261e", "#ff8a80"),
    ("c0", "#1f6fc4", "#6fb1f5"),
    ("c1", "#d1541b", "#ff9863"),
    ("c2", "#17855a", "#58c99a"),
    ("c3", "#8a4fc7", "#c29bf2"),
    ("c4", "#a3791a", "#e0bd5a"),
    ("c5", "#5b6570", "#a7afb9"),
    ("rest", "#d9dde2", "#3d444d"),
    ("paper", "#ffffff", "#ffffff"),
];

/// What drawings look like, in a page as in a file of their own.
const DRAWING: &str = "
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
.part0 { fill: var(--c0); } .part1 { fill: var(--c1); } .part2 { fill: var(--c2); }
.part3 { fill: var(--c3); } .part4 { fill: var(--c4); } .part5 { fill: var(--rest); }
";

/// The style sheet's colours and drawings: light, and dark where the reader's screen is.
pub fn page_style() -> String {
    let set = |value: fn(&Colour) -> &'static str| {
        COLOURS.iter().map(|colour| format!(" --{}: {};", colour.0, value(colour))).collect::<String>()
    };
    let (light, dark) = (set(|colour| colour.1), set(|colour| colour.2));
    format!(
        ":root {{{light} }}\n@media screen and (prefers-color-scheme: dark) {{ :root {{{dark} }} }}\n{DRAWING}"
    )
}

/// The style of a drawing in a file of its own: light, with the colours written out.
pub fn file_style() -> String {
    let font = "'DejaVu Sans', 'Liberation Sans', 'Noto Sans', Arial, Helvetica, sans-serif";
    let style = DRAWING.replace("font-family: inherit", &format!("font-family: {font}"));
    COLOURS.iter().fold(style, |style, colour| style.replace(&format!("var(--{})", colour.0), colour.1))
}
