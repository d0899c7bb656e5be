use serde_json::json;

use super::compare::Verdict;
use super::numbers::{number, shorten, time};
use super::roofline::Roof;
use super::{compare, csv, html, markdown, sketch, svgs, table, write_all};
use instructblip::lab::results::{
    Adapter, Ceilings, DecodeRow, FORMAT, KernelRow, LabelRow, ModelResults, PrefillRow, Program, Results, Stage,
};

fn empty() -> Results {
    Results {
        format: FORMAT,
        version: "0.1.0".into(),
        commit: Some("0123abc".into()),
        date: "2026-11-25".into(),
        command: "instructblip bench kernels --filter '<&\"'".into(),
        runs: Some(7),
        unfinished: false,
        by_device_clock: Some(true),
        adapter: Adapter {
            name: "A <GPU> & \"more\"".into(),
            backend: "Vulkan".into(),
            driver: "driver 1.2".into(),
            kind: "DiscreteGpu".into(),
        },
        machine: json!({"cpu": "a processor", "threads": 8, "memory_bytes": 16_000_000_000u64, "available_bytes": 1}),
        ceilings: Ceilings {
            copy_gb_s: 900.0,
            read_gb_s: 1000.0,
            f32_gflop_s: 20_000.0,
            f16_gflop_s: Some(40_000.0),
            matrix_gflop_s: None,
            gap_us: Some(2.25),
        },
        kernels: Vec::new(),
        model: None,
    }
}

fn kernel(op: &str, shape: &str, kernel: &str, variant: &str, cold_us: f64) -> KernelRow {
    let (bytes, flops) = (1_000_000, 3_000_000);
    KernelRow {
        op: op.into(),
        shape: shape.into(),
        kernel: kernel.into(),
        variant: variant.into(),
        error: 1.5e-7,
        cold_us,
        hot_us: cold_us * 0.8,
        wall_us: cold_us * 1.5,
        spread_percent: 2.0,
        runs: 7,
        bytes,
        flops,
        gb_per_s: bytes as f64 / cold_us / 1e3,
        gflop_per_s: flops as f64 / cold_us / 1e3,
        matrices: false,
        share: 1.0 / cold_us,
        bound: "memory".into(),
        programs: Vec::new(),
    }
}

fn with_kernels() -> Results {
    let mut results = empty();
    results.kernels = vec![
        kernel("linear q4", "1x4096x4096", "linear_vec_q4", "auto", 1.5),
        kernel("linear q4", "1x4096x4096", "mine, \"<&\"", "custom", 1.4),
        kernel("linear f16", "64x4096x4096", "linear_tile", "portable", 9.0),
        kernel("attention", "1 row 300 keys", "attention_decode", "auto", 4.0),
    ];
    let copy = KernelRow { flops: 0, gflop_per_s: 0.0, ..kernel("copy", "96 MiB", "elementwise", "auto", 1.1) };
    results.kernels.push(copy);
    results
}

fn with_model() -> Results {
    let mut results = empty();
    let label = |stage: &str, label: &str, us| {
        let (stage, label) = (stage.into(), label.into());
        LabelRow { stage, label, kernel: "linear_vec".into(), count: 32, us }
    };
    let decode = |rows: u32, keys: u32, ms: f64| DecodeRow {
        rows,
        keys,
        ms,
        tokens_per_s: f64::from(rows) / ms * 1e3,
        encode_us: 120.0,
        dispatches: 355,
        bytes: 13_000_000_000,
        bandwidth_share: 0.8,
    };
    let many = (0..30).map(|i| label("decode", &format!("mlp.part_{i}"), 900.0 / f64::from(i + 1)));
    results.model = Some(ModelResults {
        name: "a <model>".into(),
        layers: [39, 12, 32],
        weights: "q4".into(),
        peak_bytes: 8_000_000_000,
        stages: vec![Stage { name: "load".into(), ms: 1500.0 }, Stage { name: "vision".into(), ms: 12.5 }],
        prefill: vec![PrefillRow { tokens: 96, ms: 30.0, tokens_per_s: 3200.0, gflop_per_s: 41_000.0 }],
        decode: vec![decode(1, 64, 5.0), decode(1, 512, 5.5), decode(5, 64, 6.0), decode(5, 512, 8.0)],
        labels: many.chain([label("vision", "fc<1>", 4000.0)]).collect(),
    });
    results
}

/// Every tag is closed in its turn, and every attribute is quoted.
fn assert_well_formed(xml: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = xml;
    while let Some(start) = rest.find('<') {
        let text = &rest[..start];
        assert!(!text.contains('>'), "a > in text: {text}");
        for entity in text.split('&').skip(1) {
            assert!(["amp;", "lt;", "gt;", "quot;", "#39;"].iter().any(|e| entity.starts_with(e)), "&{entity}");
        }
        let end = start + rest[start..].find('>').expect("the end of a tag");
        let tag = &rest[start + 1..end];
        assert_eq!(tag.matches('"').count() % 2, 0, "quotes of {tag}");
        rest = &rest[end + 1..];
        match tag.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name)),
            None if tag.ends_with('/') => {}
            None => {
                let name = tag.split_whitespace().next().expect("a name");
                open.push(name);
                // What is in a style sheet is no markup; > would be a combinator.
                if name == "style" {
                    rest = &rest[rest.find("</style>").expect("the end of the style sheet")..];
                }
            }
        }
    }
    assert!(open.is_empty(), "left open: {open:?}");
}

fn assert_numbers(text: &str) {
    for bad in ["NaN", "inf"] {
        assert!(!text.contains(bad), "{bad} in {text}");
    }
}

#[test]
fn pictures_are_well_formed_and_full_of_numbers() {
    for (results, names) in [
        (empty(), vec![]),
        (with_kernels(), vec!["roofline.svg"]),
        (with_model(), vec!["labels-vision.svg", "labels-decode.svg", "decode.svg"]),
    ] {
        let pictures = svgs(&results);
        assert_eq!(pictures.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), names);
        for (_, svg) in pictures {
            assert_well_formed(&svg);
            assert_numbers(&svg);
            assert!(!svg.contains("var("), "a variable that stands for no colour");
        }
    }
}

#[test]
fn pages_escape_names_and_fetch_nothing() {
    for results in [empty(), with_kernels(), with_model()] {
        let page = html(&results);
        assert!(page.contains("A &lt;GPU&gt; &amp; &quot;more&quot;"));
        for bad in ["<GPU>", "<model>", "fc<1>", "\"<&\"", "http://", "https://", "@import", "url("] {
            assert!(!page.contains(bad), "{bad} on the page");
        }
        assert_numbers(page.split("<script>").next().expect("a page"));
    }
    assert!(html(&empty()).contains("Nothing was measured."));
}

#[test]
fn values_that_are_no_numbers_are_left_out() {
    let mut results = with_kernels();
    for (row, bad) in results.kernels.iter_mut().zip([f64::NAN, f64::INFINITY, 0.0]) {
        (row.cold_us, row.gflop_per_s, row.gb_per_s, row.share, row.error) = (bad, bad, bad, bad, bad);
    }
    results.ceilings = Ceilings { copy_gb_s: f64::NAN, matrix_gflop_s: Some(f64::INFINITY), ..Ceilings::default() };
    let pictures = svgs(&results);
    assert_eq!(pictures.len(), 1);
    assert_numbers(&pictures[0].1);
    for text in [table(&results), csv(&results), markdown(&results), sketch(&results, 72)] {
        assert_numbers(&text);
    }
    results.kernels.truncate(3);
    assert!(svgs(&results).is_empty());
    assert_eq!(sketch(&results, 72), "");
}

#[test]
fn every_dot_and_ceiling_is_inside_the_axes() {
    let results = with_kernels();
    let roof = Roof::of(&results).expect("dots");
    assert_eq!((roof.dots.len(), roof.left_out, roof.memory), (4, 1, Some(1000.0)));
    assert_eq!(roof.flats, [("f16", 40_000.0), ("f32", 20_000.0)]);
    for dot in &roof.dots {
        assert!((0.01..0.99).contains(&roof.x.at(dot.intensity)));
        assert!((0.01..0.99).contains(&roof.y.at(dot.row.gflop_per_s)));
    }
    assert!(roof.flats.iter().all(|(_, rate)| roof.y.at(*rate) < 0.99 && roof.x.at(roof.ridge(*rate)) < 0.99));
}

#[test]
fn csv_quotes_what_would_break_it() {
    let text = csv(&with_kernels());
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].starts_with("op,shape,kernel,variant,error,cold_us,hot_us,wall_us,spread_percent,gb_per_s,"));
    assert!(lines[2].starts_with("linear q4,1x4096x4096,\"mine, \"\"<&\"\"\",custom,1.500e-7,1.400,"), "{}", lines[2]);
    assert_eq!(lines.len(), 6);
    let text = csv(&with_model());
    let columns = text.lines().next().expect("a header").split(',').count();
    assert!(text.lines().all(|line| line.split(',').count() == columns));
}

#[test]
fn markdown_cells_do_not_end_early() {
    let mut results = with_kernels();
    results.kernels[0].kernel = "a|b <c>\n*d*".into();
    let text = markdown(&results);
    let line = text.lines().find(|line| line.contains("a\\|b &lt;c> \\*d\\*")).expect("the row");
    assert_eq!(line.replace("\\|", "").matches('|').count(), 14);
}

#[test]
fn tables_are_aligned() {
    let text = table(&with_kernels());
    let lines: Vec<_> = text.lines().skip_while(|line| !line.starts_with("op ")).collect();
    assert_eq!(lines.len(), 6);
    let column = lines[0].find("kernel").expect("a column");
    assert!(lines[1][column..].starts_with("linear_vec_q4"));
    assert!(text.lines().nth(1).expect("ceilings").contains("read 1.00 TB/s, f32 20.0 TFLOP/s"));
    assert!(table(&empty()).contains("nothing was measured"));
}

#[test]
fn sketches_keep_to_their_width() {
    for results in [with_kernels(), with_model()] {
        for width in [40, 72, 100] {
            let text = sketch(&results, width);
            assert!(!text.is_empty());
            for line in text.lines() {
                assert!(line.chars().count() <= width, "{width}: {line}");
                // Letters of dots that would touch each other stand apart, and read as no word.
                let plot = line.split_once(['│', '┤']).map_or("", |(_, plot)| plot).split('─').next().unwrap_or("");
                let letters: Vec<char> = plot.replace("memory", "").chars().collect();
                assert!(!letters.windows(2).any(|pair| pair.iter().all(char::is_ascii_uppercase)), "{width}: {line}");
            }
        }
    }
}

#[test]
fn differences_within_twice_both_spreads_are_noise() {
    let a = with_kernels();
    let mut b = a.clone();
    // Both spreads are 2 %.
    b.kernels[0].cold_us *= 1.03;
    b.kernels[1].cold_us *= 1.09;
    b.kernels[2].cold_us *= 0.9;
    b.kernels[3].cold_us = f64::NAN;
    let comparison = compare(&a, &b);
    let verdicts: Vec<_> = comparison.pairs.iter().map(|pair| pair.verdict()).collect();
    assert_eq!(verdicts, [Verdict::Noise, Verdict::Slower, Verdict::Faster, Verdict::Unknown, Verdict::Noise]);
    assert!(comparison.warnings.is_empty(), "{:?}", comparison.warnings);
    assert!(comparison.summary().starts_with("1 faster, 1 slower, 2 within noise, 1 without a time"));
    assert_numbers(&comparison.text());
    assert_numbers(super::compare_page::html(&comparison).split("<script>").next().expect("a page"));
    assert_eq!(comparison.json()["pairs"][3]["verdict"], "unknown");
}

#[test]
fn rows_are_matched_by_op_shape_and_variant() {
    let a = with_kernels();
    let mut b = a.clone();
    b.kernels.reverse();
    b.kernels.retain(|row| row.op != "copy");
    // Two custom ones for the same work: the one of the same name belongs to it, whatever the order.
    b.kernels.insert(0, kernel("linear q4", "1x4096x4096", "another", "custom", 2.0));
    b.kernels.iter_mut().find(|row| row.variant == "portable").expect("a row").kernel = "linear_other".into();
    let comparison = compare(&a, &b);
    assert_eq!(comparison.pairs.len(), 4);
    assert_eq!(comparison.pairs[1].ratio(), Some(1.0));
    let note = comparison.pairs.iter().filter_map(|pair| pair.note.as_deref()).collect::<Vec<_>>();
    assert_eq!(note, ["linear_tile → linear_other"]);
    assert_eq!(comparison.only_before, ["kernel copy 96 MiB auto"]);
    assert_eq!(comparison.only_after, ["kernel linear q4 1x4096x4096 custom"]);
}

#[test]
fn other_surroundings_are_warned_about() {
    let a = with_model();
    let mut b = a.clone();
    b.adapter.name = "another".into();
    b.adapter.driver = "driver 1.3".into();
    b.machine["threads"] = 4.into();
    b.machine["available_bytes"] = 2.into();
    b.ceilings.read_gb_s = 700.0;
    b.model.as_mut().expect("a model").decode[3].ms = 19.0;
    let comparison = compare(&a, &b);
    for what in ["adapters", "drivers", "machines", "the ceiling of reading changed by -30 %"] {
        assert!(comparison.warnings.iter().any(|w| w.starts_with(what)), "{what}: {:?}", comparison.warnings);
    }
    assert_eq!(comparison.warnings.len(), 4);
    assert!(comparison.text().contains("WARNING adapters differ"));
    assert_eq!((comparison.count(Verdict::Slower), comparison.count(Verdict::Noise)), (1, 6));
    b.runs = Some(2);
    assert!(compare(&a, &b).warnings.iter().any(|warning| warning.starts_with("after has 2 runs")));
    let nothing = compare(&with_kernels(), &with_model());
    assert!(nothing.warnings.iter().any(|w| w.contains("nothing in common")));
}

#[test]
fn files_are_written_and_read_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path().join("new");
    write_all(&folder, &with_model()).expect("written");
    let read = Results::read(&folder).expect("read");
    assert_eq!(csv(&read), csv(&with_model()));
    for name in ["results.csv", "results.md", "report.html", "decode.svg", "labels-vision.svg"] {
        assert!(folder.join(name).is_file(), "{name}");
    }
}

#[test]
fn numbers_keep_three_digits() {
    let told = [0.0, 0.0123, 0.9996, 9.996, 99.96, 1234.5, 1e-7, f64::NAN].map(number);
    assert_eq!(told, ["0", "0.012", "1.00", "10.0", "100", "1234", "1.0e-7", "–"]);
    assert_eq!([0.0005, 1.5, 2500.0].map(time), ["0.500 µs", "1.50 ms", "2.50 s"]);
    assert_eq!(shorten("abcdef", 4), "abc…");
}

#[test]
fn machine_code_is_a_table_of_its_own_with_each_program_once() {
    let mut results = with_kernels();
    assert!(!table(&results).contains("machine code"));
    let statistics = [("Number of GPRs", 40.0), ("Code size", 9.0), ("Max warps/SM", 48.0), ("Spilled VGPRs", 0.0)];
    let statistics = statistics.map(|(name, value)| (name.into(), value)).to_vec();
    for row in &mut results.kernels[..2] {
        row.programs = vec![Program { kernel: "linear_vec".into(), subgroup_size: 32, statistics: statistics.clone() }];
    }
    let text = table(&results);
    let told = "Number of GPRs 40, Max warps/SM 48, Spilled VGPRs 0";
    assert_eq!(text.matches(told).count(), 1, "{text}");
    assert!(text.contains("machine code") && markdown(&results).contains(told));
    let read: Results = serde_json::from_str(&serde_json::to_string(&results).expect("JSON")).expect("results");
    assert_eq!(read.kernels[0].programs, results.kernels[0].programs);
}
