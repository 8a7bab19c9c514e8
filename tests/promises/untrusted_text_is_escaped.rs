//! Text from files and names is shown as text in terminals, pages and plots: no escape sequences, invisible characters or long digits.

use serde_json::Value;

use super::lab::{EXPERIMENT, Lab};

fn hidden(text: &str) -> Vec<char> {
    text.chars().filter(|&c| (c.is_control() && c != '\n' && c != '\t') || matches!(c, '\u{202a}'..='\u{202e}')).collect()
}

#[test]
fn file_names_are_escaped_in_terminals_and_json_stays_valid() {
    let lab = Lab::new();
    let name = "docs\u{1b}[31m\u{9b}\u{202e}\nx.txt";
    lab.write(name, "some text\n");
    let output = lab.run(&["data", name]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said.lines().next(), Some("docs\\u{1b}[31m\\u{9b}\\u{202e}\\nx.txt: text"));
    lab.write("odd\u{1b}[2J.jsonl", "{\"text\": 1}\n");
    let output = lab.run(&["data", "odd\u{1b}[2J.jsonl"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && said.contains("odd\\u{1b}[2J.jsonl") && hidden(&said).is_empty(), "{said:?}");
    lab.ok(&["run", "lab.toml", "--only", "finetune"]);
    let output = lab.run(&["export", "results/lab", "--format", "csv", "--out", "a\u{9b}\u{202e}b", "--output", "json"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(hidden(&said).is_empty(), "{said:?}");
    let document: Value = serde_json::from_str(&said).unwrap();
    assert!(document["files"][0].as_str().unwrap().starts_with("a\u{9b}\u{202e}b/"), "{document}");
}

#[test]
fn questions_and_names_are_escaped_in_pages() {
    let lab = Lab::new();
    let question = "Is \\u001b[31mred\\u202e <script>alert(1)</script> | `bold`?";
    let toml = EXPERIMENT
        .replace("Does the path hold?", question)
        .replace("[method.finetune]", "[method.\"<script>a()</script>|=cmd()\"]")
        .replace("12.8k", "1k");
    lab.write("lab.toml", &toml);
    lab.ok(&["run", "lab.toml", "--only", "_script"]);
    let results = lab.path().join("results/lab");
    for file in ["report.html", "report.md"] {
        let page = std::fs::read_to_string(results.join(file)).unwrap();
        assert_eq!(hidden(&page), [], "{file}");
        assert!(page.contains("\\u{1b}[31mred") || page.contains("\\\\u{1b}\\[31mred"), "{file}");
        // The page ends with the experiment file as an indented code block, where Markdown is not interpreted.
        let own = page.lines().filter(|line| !line.starts_with("    ")).collect::<Vec<_>>().join("\n");
        assert!(!own.contains("<script>a") && !own.contains("()</script>"), "{file}");
    }
    for plot in std::fs::read_dir(results.join("plots")).unwrap() {
        let path = plot.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "svg") {
            assert!(!std::fs::read_to_string(&path).unwrap().contains("<script"), "{}", path.display());
        }
    }
    lab.ok(&["export", "results/lab", "--format", "csv", "--out", "csv"]);
}

/// Oracle: the values in the file.
#[test]
fn errors_quote_values_briefly_and_state_the_bounds() {
    let lab = Lab::new();
    let long = "k".repeat(5000);
    let cases = [
        ("lr      = 3e-3", "lr = 1e308", "lr is 1e308, which overflows single precision"),
        ("batch   = 256", "batch = 256\nbeta1 = 1e308", "beta1 must be a number from 0 to below 1, not 1e308"),
        ("batch   = 256", "batch = 256\neps = 5e-324", "eps is 5e-324, which rounds to 0 in single precision"),
        ("lr      = 3e-3", "lr = inf", "lr must be a number above 0, not inf"),
        (
            "batch   = 256",
            "batch = 256\ntemperature = 1e-300",
            "lab.toml:10:1: temperature must be a number from 1e-6 to 1e6, not 1e-300",
        ),
        ("\"12.8k\"", "\"9000000G\"", "tokens must be a number of tokens below 10^15, not \"9000000G\""),
        ("\"12.8k\"", "1_000_000_000_000_000", "tokens must be a number of tokens below 10^15, not 1000000000000000"),
        ("seeds   = 1", &format!("{long} = 1"), "(5000 characters) in [base]; known are data, student"),
        ("\"bucket\"", &format!("\"{long}\""), "unknown tail \"kkk"),
        (
            "[method.finetune]",
            "[sweep]\ngrid = { lambda = 0.5 }\n[method.finetune]",
            "lambda must be a list of values, e.g. lambda = [0.1, 0.5], not 0.5",
        ),
        (
            "[method.finetune]",
            "[sweep]\ngrid = { centered = true }\n[method.finetune]",
            "e.g. centered = [false, true], not a boolean",
        ),
        (
            "seeds   = 1",
            "seeds = 10000\n[sweep]\ngrid = { lr = [1.0, 2.0, 3.0, 4.0] }\n[smoke]\ntokens = 1",
            "lab.toml:11:1: the experiment has more than 100000 runs",
        ),
    ];
    for (from, to, message) in cases {
        lab.write("lab.toml", &EXPERIMENT.replace(from, to));
        let output = lab.run(&["plan", "lab.toml"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{to}: {said}");
        assert!(
            said.contains(message) && said.len() < 600 && said.starts_with("hydrometer: lab.toml:"),
            "{said}\nexpected {message}"
        );
    }
    std::fs::write(lab.path().join("lab.toml"), b"question = \"x\"\n[base]\ndata = \"\xff\"\n").unwrap();
    let output = lab.run(&["plan", "lab.toml"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(2) && said.contains("lab.toml:3:9: the experiment file must be UTF-8, but byte 0xff"),
        "{said}"
    );
}

#[test]
fn a_large_sweep_is_listed_by_arm_unless_all_is_given() {
    let lab = Lab::new();
    let sweep = "[sweep]\ngrid = { tokens = [1000, 2000, 3000], lr = [1e-4, 2e-4, 3e-4] }\n[method.finetune]";
    lab.write("lab.toml", &EXPERIMENT.replace("seeds   = 1", "seeds = 2").replace("[method.finetune]", sweep));
    let said = |arguments: &[&str]| String::from_utf8(lab.run(arguments).stdout).unwrap();
    let brief = said(&["plan", "lab.toml"]);
    let rows: Vec<&str> = brief.lines().filter(|line| line.starts_with("│ ")).collect();
    assert_eq!(rows.len(), 4, "{brief}");
    assert!(rows[1].contains("finetune") && rows[1].contains("18") && rows[1].contains("1000 to 3000"), "{brief}");
    assert!(brief.ends_with("54 runs, 54 to do; --all shows every run\n"), "{brief}");
    let every = said(&["plan", "lab.toml", "--all"]);
    assert_eq!(every.lines().filter(|line| line.contains("-s0-") || line.contains("-s1-")).count(), 54, "{every}");
    let json: Value = serde_json::from_str(&said(&["plan", "lab.toml", "--output", "json"])).unwrap();
    assert_eq!(json["runs"].as_array().unwrap().len(), 54);
}
