//! A table as LaTeX with booktabs.

use hydrometer_base::text::{escaped, is_hidden};

use super::{Row, Table};

impl Table<'_> {
    /// A `tabular` and its note. Neither floats, so both work inside and outside a `table` environment.
    pub(super) fn latex(&self) -> String {
        let columns = self.head.len();
        let line = |texts: &[String]| format!("{} \\\\\n", texts.iter().map(|text| latex(text)).collect::<Vec<_>>().join(" & "));
        let (mut body, mut before) = (String::new(), None);
        for row in &self.rows {
            // A rule above every facet except the first, and above the references.
            let rule = match (before, row) {
                (Some(_), Row::Facet(_)) => true,
                (Some(before), Row::Reference(_)) => !matches!(before, &Row::Reference(_)),
                _ => false,
            };
            body += if rule { "\\midrule\n" } else { "" };
            body += &match row {
                Row::Facet(name) => format!("\\multicolumn{{{columns}}}{{@{{}}l}}{{\\textit{{{}}}}} \\\\\n", latex(name)),
                Row::Cell(_, texts) | Row::Plain(texts) | Row::Reference(texts) => line(texts),
            };
            before = Some(row);
        }
        format!(
            "\\begin{{tabular}}{{@{{}}l{}@{{}}}}\n\\toprule\n{}\\midrule\n{body}\\bottomrule\n\\end{{tabular}}\n\n\
             \\smallskip\\noindent{{\\footnotesize {}\\par}}\n",
            "r".repeat(columns - 1),
            line(&self.head),
            latex(&self.note)
        )
    }
}

/// `text` escaped for LaTeX's text mode with any engine and font: no commands, ligatures or optional arguments.
pub fn latex(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut before = None;
    for c in text.chars() {
        match c {
            '%' | '_' | '&' | '#' | '$' | '{' | '}' => out.extend(['\\', c]),
            '\\' => out.push_str("\\textbackslash{}"),
            '~' => out.push_str("\\textasciitilde{}"),
            '^' => out.push_str("\\textasciicircum{}"),
            '|' => out.push_str("\\textbar{}"),
            '<' => out.push_str("\\textless{}"),
            '>' => out.push_str("\\textgreater{}"),
            '`' => out.push_str("\\textasciigrave{}"),
            '"' => out.push_str("\\char`\\\"{}"),
            // After `\\` and after a rule these would start an argument.
            '[' | ']' | '*' => out.extend(['{', c, '}']),
            // Two in a row would become one dash or one quotation mark.
            '-' | '\'' | ',' if before == Some(c) => out.extend(['{', '}', c]),
            '\n' | '\r' | '\t' => out.push(' '),
            c if is_hidden(c) => out.push_str(&latex(&escaped(c))),
            c => match command(c) {
                Some(command) => out.push_str(command),
                None => out.push(c),
            },
        }
        before = Some(c);
    }
    out
}

/// The command for a character that pdfLaTeX does not support.
fn command(c: char) -> Option<&'static str> {
    Some(match c {
        '−' => "$-$",
        '±' => "$\\pm$",
        '×' => "$\\times$",
        '·' => "$\\cdot$",
        '–' => "--",
        '—' => "---",
        '…' => "\\ldots{}",
        '→' => "$\\to$",
        '←' => "$\\leftarrow$",
        '≤' => "$\\le$",
        '≥' => "$\\ge$",
        '≠' => "$\\neq$",
        '≈' => "$\\approx$",
        '∞' => "$\\infty$",
        '√' => "$\\surd$",
        'Σ' => "$\\Sigma$",
        '‖' => "$\\Vert$",
        'Δ' => "$\\Delta$",
        'α' => "$\\alpha$",
        'β' => "$\\beta$",
        'γ' => "$\\gamma$",
        'δ' => "$\\delta$",
        'ε' => "$\\varepsilon$",
        'η' => "$\\eta$",
        'θ' => "$\\theta$",
        'λ' => "$\\lambda$",
        'μ' | 'µ' => "$\\mu$",
        'π' => "$\\pi$",
        'ρ' => "$\\rho$",
        'σ' => "$\\sigma$",
        'τ' => "$\\tau$",
        'φ' => "$\\varphi$",
        'χ' => "$\\chi$",
        'ψ' => "$\\psi$",
        'ω' => "$\\omega$",
        '²' => "$^2$",
        _ => return None,
    })
}
