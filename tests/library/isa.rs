//! The tables of tools/isa: what each GPU's compiler made of the kernels, and of which text of them.
//!
//! A row has the hash of the text that it was made from. Rows of another text than today's are told on stderr and are no
//! failure: who changes a kernel need not have the drivers that tables are made with. `make isa-check` does, and fails.
//! A table that cannot be read, or that names a kernel which is gone, is wrong for everyone.

use std::collections::BTreeMap;
use std::io::Write;

use instructblip::hash::fnv1a;
use instructblip::runtime::kernels;

/// The rows of a table that today's kernels did not make.
#[derive(Debug, Default, PartialEq)]
struct Outdated {
    /// Variants whose kernels have another text.
    stale: Vec<String>,
    /// Variants whose kernels are gone.
    gone: Vec<String>,
}

/// Compares a table with kernels: their names and the hashes of their texts.
fn outdated(table: &str, kernels: &BTreeMap<String, String>) -> Outdated {
    let mut lines = table.lines().skip_while(|line| line.starts_with('#'));
    let columns: Vec<&str> = lines.next().expect("a line of columns").split('\t').collect();
    let hash = columns.iter().position(|column| *column == "hash").expect("a column of hashes");
    let mut found = Outdated::default();
    for line in lines {
        let words: Vec<&str> = line.split('\t').collect();
        assert_eq!(words.len(), columns.len(), "as many words as columns: {line}");
        let kernel = words[0].split(' ').next().expect("a kernel's name");
        match kernels.get(kernel) {
            Some(now) if now == words[hash] => {}
            Some(_) => found.stale.push(words[0].into()),
            None => found.gone.push(words[0].into()),
        }
    }
    found
}

#[test]
fn rows_that_todays_kernels_did_not_make_are_told() {
    let kernels: BTreeMap<String, String> =
        kernels::all().map(|k| (k.name.into(), format!("{:016x}", fnv1a(k.source().bytes())))).collect();
    let tables = crate::rooms::files("tools/isa/tables", "tsv");
    let mut stale = Vec::new();
    for (path, table) in &tables {
        let found = outdated(table, &kernels);
        let path = path.display();
        assert!(found.gone.is_empty(), "{path} has kernels that are gone, `make isa` takes them out: {:?}", found.gone);
        stale.extend(found.stale.into_iter().map(|variant| format!("    {path}: {variant}\n")));
    }
    if !stale.is_empty() {
        // Tests that pass show nothing that they print.
        let told = format!("{} rows are of older kernels; `make isa` renews them:\n{}", stale.len(), stale.concat());
        std::io::stderr().write_all(told.as_bytes()).expect("a terminal");
    }
}

#[test]
fn a_row_is_outdated_by_another_text_or_none() {
    let kernels = BTreeMap::from([("norm".to_string(), "00fe".to_string()), ("fill".into(), "00aa".into())]);
    let table =
        "# a driver\nvariant\tregisters\thash\tused_by\nnorm WG=64\t8\t00fe\tvision\nfill\t\t00ab\t\nold X=1\t\t1\t\n";
    let found = outdated(table, &kernels);
    assert_eq!(found, Outdated { stale: vec!["fill".into()], gone: vec!["old X=1".into()] });
}
