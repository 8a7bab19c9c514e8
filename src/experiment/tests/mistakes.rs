//! The message for each mistake.

use std::path::Path;

use super::super::load;
use super::{BASE, Bench, OPTIONS, Options, UserError};

#[test]
fn every_mistake_is_reported_with_its_place_and_a_remedy() {
    let bench = Bench::new();
    bench.write("table.txt", "src,tgt\na,b\n");
    bench.write("empty", "\n");
    let teacher = "[teacher.big]\nmodel = \"large\"\n";
    let soft = "[method.soft]\nobjective = \"soft-ce\"\n";
    let hard = "[method.hard]\nobjective = \"hard-ce\"\n";
    let base = |from: &str, to: &str| format!("{}{hard}", BASE.replace(from, to));
    let cases = [
        (
            format!("{BASE}[method.a]\nobjctive = \"hard-ce\"\n"),
            "x.toml:8:1: unknown key \"objctive\" in [method.a]; did you mean \"objective\"?",
        ),
        (base("tokens =", "tokns ="), "x.toml:5:1: unknown key \"tokns\" in [base]; did you mean \"tokens\"?"),
        (base("\"1M\"", "true"), "x.toml:5:1: tokens must be a number of tokens such as \"100k\" or \"1.5M\", not a boolean"),
        (base("\"1M\"", "\"lots\""), "x.toml:5:1: tokens must be a number of tokens such as \"100k\" or \"1.5M\", not \"lots\""),
        (base("\"1M\"", "0"), "x.toml:5:1: tokens must be a number of tokens such as \"100k\" or \"1.5M\", not 0"),
        (base("batch", "lr = nan\nbatch"), "x.toml:6:1: lr must be a number above 0, not nan"),
        (base("batch", "packing = \"document\"\nbatch"), "x.toml:6:1: unknown packing \"document\"; did you mean \"documents\"?"),
        (base("batch", "packing = true\nbatch"), "x.toml:6:1: packing must be a string, not a boolean"),
        (base("batch", "context = 7\nbatch"), "x.toml:6:1: context must be a whole number from 8 to 1048576, not 7"),
        (
            base("batch", "eval = { on = \"train\" }\nbatch"),
            "x.toml:6:1: eval.on must be a held-out split of the data (valid or test), not \"train\"",
        ),
        (base("batch", "tail = \"bukket\"\nbatch"), "x.toml:6:1: unknown tail \"bukket\"; did you mean \"bucket\"?"),
        (base("\"tiny\"", "\"tinny\""), "x.toml:3:1: unknown data preset \"tinny\"; did you mean \"tiny\"?"),
        (base("\"small\"", "\"enormous\""), "x.toml:4:1: unknown student preset \"enormous\"; known are small, large"),
        (base("\"1M\"", "\"1M"), "x.toml:5:"),
        (
            format!("{BASE}[method.a]\n"),
            "x.toml:7:9: this method has no objective; add e.g. objective = \"hard-ce\" (known are hard-ce, soft-ce, kl-forward, kl-reverse, jsd, logit-mse, logprob-mse)",
        ),
        (
            format!("{BASE}[method.a]\ntail = \"raw\"\nobjective = \"soft-cee\"\n"),
            "x.toml:9:1: unknown objective \"soft-cee\"; did you mean \"soft-ce\"?",
        ),
        (format!("{BASE}{hard}tail = \"raw\"\n"), "x.toml:9:1: tail does not apply to hard-ce; remove it"),
        (format!("{BASE}{teacher}{hard}teacher = \"big\"\n"), "x.toml:11:1: teacher does not apply to hard-ce; remove it"),
        (format!("{BASE}{soft}"), "x.toml:7:9: this objective needs a teacher; add a [teacher.NAME]"),
        (format!("{BASE}{teacher}{soft}teacher = \"bog\"\n"), "x.toml:11:1: unknown teacher \"bog\"; did you mean \"big\"?"),
        (format!("{BASE}{teacher}{soft}top_k = 0\n"), "x.toml:11:1: top_k must be a whole number from 1 to 1048576, not 0"),
        (format!("{BASE}{teacher}{soft}top_k = 513\n"), "x.toml:11:1: top_k 513 is larger than the vocabulary of 512"),
        (format!("{BASE}{teacher}lr = \"fast\"\n{hard}"), "x.toml:9:1: lr must be a number above 0, not \"fast\""),
        (
            format!("{BASE}{hard}[sweep]\ngrid = {{ lr = [] }}\n"),
            "x.toml:10:10: lr must be a list of values, e.g. lr = [1e-3, 2e-3], not an empty list",
        ),
        (format!("{BASE}{hard}[sweep]\ngrid = {{ tokens = [\"1k\", 1000] }}\n"), "x.toml:10:10: tokens lists 1000 twice"),
        (
            format!("{BASE}{hard}[smoke]\ntokens = false\n"),
            "x.toml:10:1: tokens must be a number of tokens such as \"100k\" or \"1.5M\", not a boolean",
        ),
        (
            format!("{BASE}{hard}seeds = 1_000_000_000_000\n"),
            "x.toml:9:1: seeds must be a count of at most 10000, or a list of different whole numbers",
        ),
        (format!("{BASE}{hard}[method.copy]\nobjective = \"hard-ce\"\n"), "x.toml:9:9: copy-s0-"),
        (BASE.to_string(), "x.toml: no methods; add e.g. [method.finetune] with objective = \"hard-ce\""),
        (
            base("\"tiny\"", "{ path = \"gone.txt\", tokenizer = { bpe = 300 } }"),
            "x.toml:3:1: no corpus file at gone.txt; check path",
        ),
        (
            base("\"tiny\"", "{ path = \"train.jsonl\", train = \"train.jsonl\" }"),
            "x.toml:3:1: data has both a path and a train file; keep one",
        ),
        (
            base("\"tiny\"", "{ train = \"train.jsonl\" }"),
            "x.toml:3:1: the data has no valid split to evaluate on; add valid, or give a single path to be split",
        ),
        (
            base("\"tiny\"", "{ path = \"x.toml\", format = \"jsonl\" }"),
            "x.toml:3:1: x.toml:1: not JSON: expected value at column 1, at \"question = \\\"q?\\\"\"; the file looks like plain text, not \
             like the lines of format \"jsonl\": correct it, or set format = \"text\"",
        ),
        (
            base("\"tiny\"", "{ path = \"table.txt\" }"),
            "x.toml:3:1: table.txt:1: this is CSV, which is not read; write one JSON object a line, e.g. \
             polars.read_csv(\"table.txt\").write_ndjson(\"data.jsonl\"); or set format = \"text\" to read it as plain text",
        ),
        (base("\"tiny\"", "{ path = \"empty\" }"), "x.toml:3:1: empty: the file has no text; there is nothing to read"),
    ];
    let messages: Vec<(String, &str)> = cases.iter().map(|(toml, want)| (bench.mistake(toml, &OPTIONS), *want)).collect();
    let wrong: Vec<_> =
        messages.iter().filter(|(got, want)| got != want && !(want.ends_with([':', '-']) && got.starts_with(want))).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn shapes_that_do_not_divide_over_ranks_are_refused_before_anything_starts() {
    let bench = Bench::new();
    let text = format!("{BASE}[method.hard]\nobjective = \"hard-ce\"\n");
    assert_eq!(bench.mistake(&text, &Options { dp: 3, ..OPTIONS }), "x.toml:6:1: batch 4000 does not divide over dp = 3");
    let wanted = "x.toml:4:1: student: num_attention_heads 4 does not divide over tp = 3";
    assert_eq!(bench.mistake(&text, &Options { tp: 3, ..OPTIONS }), wanted);
}

#[test]
fn a_missing_experiment_file_is_the_users_mistake() {
    let error = load(Path::new("nowhere/x.toml"), &OPTIONS).unwrap_err();
    assert!(error.is::<UserError>(), "{error:?}");
    assert!(error.to_string().starts_with("nowhere/x.toml: cannot read the experiment file"), "{error}");
}

#[test]
fn contradictory_sweeps_are_refused() {
    let bench = Bench::new();
    let arms =
        "[teacher.big]\nmodel = \"large\"\n[method.hard]\nobjective = \"hard-ce\"\n[method.soft]\nobjective = \"soft-ce\"\n";
    // [sweep] is in line 13.
    let with = |sweep: &str| format!("{BASE}{arms}[sweep]\n{sweep}");
    let cases = [
        (with("gird = { lr = [1.0] }\n"), "14:1: unknown key \"gird\" in [sweep]; did you mean \"grid\"?"),
        (with("grid = { lrr = [1.0] }\n"), "14:10: unknown key \"lrr\" in sweep.grid; did you mean \"lr\"?"),
        (with("grid = { seeds = [1, 2] }\n"), "14:10: seeds cannot be swept in the grid; set it in [base] or in a method"),
        (
            with("grid = { lr = [1e-3] }\nzip = { lr = [1e-3], clip = [1.0] }\n"),
            "15:9: lr is swept twice, here and in line 14; keep one",
        ),
        (
            with("zip = { lr = [1e-3, 2e-3], clip = [1.0] }\n"),
            "14:28: clip lists 1 values but lr lists 2; zip needs lists of equal length",
        ),
        (with("zip = { lr = [1e-3, 0.001], clip = [1.0, 1.0] }\n"), "14:9: lr and clip list 0.001 with 1.0 twice"),
        (
            with("grid = { lr = [1e-3] }\n[[sweep.when]]\nmethod = \"soft\"\ngrid = { lr = [2e-3] }\n"),
            "17:10: lr is swept twice, here and in line 14; keep one",
        ),
        (
            with("[[sweep.when]]\nmethod = \"soft\"\ngrid = { top_k = [5] }\n[[sweep.when]]\nzip = { top_k = [6] }\n"),
            "18:9: another [[sweep.when]] sweeps top_k for soft too; keep one",
        ),
        (
            with("[[sweep.when]]\nmethod = \"sotf\"\ngrid = { top_k = [5] }\n"),
            "15:1: unknown method \"sotf\"; did you mean \"soft\"?",
        ),
        (
            with("[[sweep.when]]\nlr = 2e-3\ngrid = { top_k = [5] }\n"),
            "14:1: this [[sweep.when]] matches no run: none has lr = 0.002; correct or remove it",
        ),
        (
            with("[[sweep.when]]\nmethod = \"soft\"\n"),
            "14:1: this [[sweep.when]] sweeps nothing; add e.g. grid = { top_k = [5, 20] }",
        ),
        (
            with("[[sweep.when]]\nmethod = \"hard\"\ngrid = { top_k = [5] }\n"),
            "16:10: top_k does not apply to the methods it is swept for; remove it",
        ),
        (with("[[sweep.skip]]\nmethod = \"soft\"\n"), "14:1: say why, e.g. because = \"diverged in the pilot\""),
        (
            with("[[sweep.skip]]\nmethod = \"soft\"\ntokens = \"2M\"\nbecause = \"long\"\n"),
            "14:1: this [[sweep.skip]] matches no run: none has method = soft, tokens = 2M; correct or remove it",
        ),
        (with("[[sweep.skip]]\nbecause = \"all\"\n"), " every run is skipped; skip fewer"),
        (with("[sweep.skip]\nbecause = \"all\"\n"), "14:1: sweep.skip must be a list of tables, [[sweep.skip]]"),
        (
            with("[[sweep.skip]]\ntoken = 3\nbecause = \"x\"\n"),
            "15:1: unknown key \"token\" in [[sweep.skip]]; did you mean \"tokens\"?",
        ),
    ];
    for (toml, want) in cases {
        assert_eq!(bench.mistake(&toml, &OPTIONS), format!("x.toml:{want}"), "{toml}");
    }
}

#[test]
fn claims_that_cannot_be_decided_are_refused() {
    let bench = Bench::new();
    let file = "[method.hard]\nobjective = \"hard-ce\"\n[method.warm]\nobjective = \"hard-ce\"\nwarmup = 0.2\n";
    // [[claim]] is in line 14.
    let with = |claim: &str| format!("{BASE}{file}[sweep]\ngrid = {{ lr = [1e-3, 2e-3] }}\n[[claim]]\n{claim}");
    let sides = "a = { method = \"warm\", lr = 1e-3 }\nb = { method = \"hard\", lr = 1e-3 }\n";
    let good = format!("id = \"c\"\nexpect = \"nll(a) < nll(b)\"\n{sides}");
    let cases = [
        (
            with(&format!("expect = \"nll(a) < nll(b)\"\n{sides}")),
            "14:1: this [[claim]] lacks id; add e.g. id = \"soft-ce-wins\"",
        ),
        (
            with(&format!("id = \"c\"\n{sides}")),
            "14:1: this [[claim]] lacks expect; add e.g. expect = \"perplexity(a) < perplexity(b)\"",
        ),
        (
            with(&format!("id = \"c\"\nexpect = \"nll(a) < nl(b)\"\n{sides}")),
            "16:20: unknown metric \"nl\"; did you mean \"nll\"?",
        ),
        (with(&format!("id = \"c\"\nexpect = \"nll(a)\"\n{sides}")), "16:17: a comparison is missing; use one of < <= > >="),
        (with("id = \"c\"\nexpect = \"nll(a) < 3\"\n"), "14:1: this [[claim]] lacks a; add e.g. a = { method = \"finetune\" }"),
        (with(&format!("id = \"c\"\nexpect = \"nll(a) < 3\"\n{sides}")), "18:1: expect does not use b; remove it"),
        (
            with("id = \"c\"\nexpect = \"nll(a) < 3\"\na = { method = \"wram\" }\n"),
            "17:7: unknown method \"wram\"; did you mean \"warm\"?",
        ),
        (
            with("id = \"c\"\nexpect = \"nll(a) < 3\"\nat = { lr = 1.0 }\na = { method = \"warm\" }\n"),
            "18:1: claim \"c\" selects no run: none has method = warm, lr = 1.0; correct it",
        ),
        (
            with("id = \"c\"\nexpect = \"nll(a) < 3\"\na = { method = \"warm\" }\n"),
            "17:1: claim \"c\" must select one point of the sweep for each arm, but takes warm lr=0.001 and warm lr=0.002; add what \
             tells them apart",
        ),
        (
            with(&format!("id = \"c\"\nexpect = \"nll(a) < nll(b)\"\nlevel = 95\n{sides}")),
            "17:9: level must be a number from 0.5 to below 1, e.g. 0.95",
        ),
        (
            with(&format!("id = \"c\"\nlevle = 0.9\nexpect = \"nll(a) < nll(b)\"\n{sides}")),
            "16:1: unknown key \"levle\" in [[claim]]; did you mean \"level\"?",
        ),
        (format!("{}[[claim]]\n{good}", with(&good)), "19:1: another claim is called \"c\"; rename one"),
    ];
    for (toml, want) in cases {
        assert_eq!(bench.mistake(&toml, &OPTIONS), format!("x.toml:{want}"), "{toml}");
    }
}

#[test]
fn unfair_sweeps_are_refused_by_the_rule_they_name() {
    let bench = Bench::new();
    let arms =
        "[teacher.big]\nmodel = \"large\"\n[method.hard]\nobjective = \"hard-ce\"\n[method.soft]\nobjective = \"soft-ce\"\n";
    // [fair] is in line 7, match in line 8.
    let with = |by: &str, soft: &str| format!("{BASE}[fair]\nmatch = \"{by}\"\n{arms}{soft}");
    let end = "; set it once in [base], or remove [fair]";
    let cases = [
        (with("token", ""), "unknown match \"token\"; did you mean \"tokens\"?".to_string()),
        (with("tokens", "tokens = \"2M\"\n"), format!("not fair by tokens: soft has tokens 2000000 where hard has 1000000{end}")),
        (with("tokens", "batch = 2000\n"), format!("not fair by tokens: soft has batch 2000 where hard has 4000{end}")),
        (with("updates", "batch = 2000\n"), format!("not fair by updates: soft has updates 500 where hard has 250{end}")),
        (with("updates", "context = 64\n"), format!("not fair by updates: soft has context 64 where hard has 256{end}")),
        (
            with("updates", "packing = \"documents\"\n"),
            format!("not fair by updates: soft has packing documents where hard has none{end}"),
        ),
        (
            with("tokens", "eval = { on = \"test\" }\n"),
            format!("not fair by tokens: soft has eval.on test where hard has valid{end}"),
        ),
        (
            with("total-flops", "").replace("model = \"large\"", "model = \"large\"\ntokens = \"5M\""),
            "soft's share of training teacher big leaves it no tokens; give hard at least ".to_string(),
        ),
    ];
    for (toml, want) in cases {
        let found = bench.mistake(&toml, &OPTIONS);
        assert!(found.starts_with(&format!("x.toml:8:1: {want}")), "{found}\nexpected {want}");
    }
    bench.good(&with("updates", "batch = 2000\ntokens = \"500k\"\n"));
    // The same file, read with other settings, gives other labels.
    bench.write("pairs.jsonl", "{\"src\": \"a\", \"tgt\": \"b\"}\n");
    let pairs = |more: &str| format!("data = {{ train = \"pairs.jsonl\", valid = \"pairs.jsonl\", {more} }}\n");
    let arms = |soft: &str| {
        let hard = format!("[method.hard]\nobjective = \"hard-ce\"\n{}", pairs("truncation = \"left\""));
        format!(
            "{BASE}[fair]\nmatch = \"tokens\"\n{hard}[teacher.big]\nmodel = \"large\"\n[method.soft]\nobjective = \"soft-ce\"\n{soft}"
        )
    };
    let found = bench.mistake(&arms(&pairs("truncation = \"right\"")), &OPTIONS);
    let want = "soft has examples with truncation \"right\" where hard has with truncation \"left\"";
    assert!(found.starts_with(&format!("x.toml:8:1: not fair by tokens: {want}")), "{found}");
    bench.good(&arms(&pairs("truncation = \"left\"")));
}
