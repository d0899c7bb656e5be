//! Reading of the command line, and a tip for one that cannot be read.

use std::ffi::OsString;

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser};

use crate::command::Arguments;

/// Commands whose question is one argument.
const ASKING: [&str; 3] = ["ask", "score", "forward"];

/// Reads the command line. Ends the program where it cannot be read.
pub fn parse() -> Arguments {
    read(std::env::args_os().collect()).unwrap_or_else(|error| error.exit())
}

fn read(given: Vec<OsString>) -> Result<Arguments, clap::Error> {
    Arguments::try_parse_from(&given).map_err(|mut error| {
        let unknown = match (error.kind(), error.get(ContextKind::InvalidArg)) {
            (ErrorKind::UnknownArgument, Some(ContextValue::String(unknown))) => unknown.clone(),
            _ => return error,
        };
        if let Some(tip) = tip(&unknown, &given) {
            error.remove(ContextKind::SuggestedArg);
            error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![StyledStr::from(tip)]));
        }
        error
    })
}

/// A guess at the meaning of an argument that a command does not know.
fn tip(unknown: &str, given: &[OsString]) -> Option<String> {
    let mut program = Arguments::command();
    program.build();
    let verb = given.iter().skip(1).find_map(|word| program.find_subcommand(word));
    let Some(option) = unknown.strip_prefix("--") else {
        let verb = verb?.get_name();
        let asks = ASKING.contains(&verb) && !unknown.starts_with('-');
        return asks
            .then(|| format!("put the question in quotes: instructblip {verb} photo.jpg \"What is in the picture?\""));
    };
    let name = option.split('=').next().unwrap_or(option);
    let Some(verb) = verb.filter(|verb| given.iter().position(|word| word == verb.get_name()) < at(unknown, given))
    else {
        return Some(format!("options come after the command, as in: instructblip ask photo.jpg \"…\" --{name} …"));
    };
    let words: Vec<&str> = name.split('-').collect();
    let has_all = |long: &&str| words.iter().all(|word| long.split('-').any(|part| part == *word));
    let longs = verb.get_arguments().filter(|argument| !argument.is_hide_set()).filter_map(|a| a.get_long());
    let alike: Vec<String> = longs.filter(has_all).map(|long| format!("'--{long}'")).collect();
    match alike.as_slice() {
        [] => None,
        [one] => Some(format!("a similar argument exists: {one}")),
        several => Some(format!("similar arguments exist: {}", several.join(", "))),
    }
}

/// The place of an argument.
fn at(argument: &str, given: &[OsString]) -> Option<usize> {
    given.iter().position(|word| word.to_string_lossy().starts_with(argument))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(line: &str) -> String {
        let given = line.split(' ').map(OsString::from).collect();
        read(given).err().unwrap_or_else(|| panic!("{line} is fine")).to_string()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn mistakes_lead_to_what_was_meant() {
        for (line, part) in [
            ("instructblip ask a.png b --beams 5", "a similar argument exists: '--num-beams'"),
            ("instructblip ask a.png b --beams=5", "'--num-beams'"),
            ("instructblip caption a.png --sample", "'--do-sample'"),
            ("instructblip ask a.png b --penalty 2", "'--length-penalty', '--repetition-penalty'"),
            ("instructblip ask a.png b --num-beems 5", "'--num-beams'"),
            ("instructblip ask a.png What is this", "put the question in quotes: instructblip ask photo.jpg \""),
            ("instructblip score a.png Is it --choice yes", "put the question in quotes: instructblip score"),
            ("instructblip --json ask a.png b", "options come after the command"),
            ("instructblip pull a/b --adapter x", "unexpected argument '--adapter'"),
        ] {
            let refusal = refusal(line);
            assert!(refusal.contains(part), "{line}: {refusal}");
        }
        assert!(!refusal("instructblip ls a b").contains("quotes"));
    }

    #[test]
    fn the_gpu_may_be_chosen_before_and_after_the_command() {
        let common = |line: &str| {
            let read = read(line.split(' ').map(OsString::from).collect());
            let common = read.unwrap_or_else(|error| panic!("{error}")).common();
            (common.adapter.unwrap_or_default(), common.portable, common.kernels, common.quiet)
        };
        let wanted = ("x".to_string(), true, "norm".to_string(), true);
        assert_eq!(common("instructblip -q --adapter x --portable --kernels norm ask a.png b"), wanted);
        assert_eq!(common("instructblip ask a.png b --adapter x --portable --kernels norm -q"), wanted);
        assert_eq!(
            common("instructblip --adapter y --kernels dot bench model --adapter x --kernels norm --portable -q"),
            wanted
        );
    }

    #[test]
    fn help_is_in_groups_and_has_what_acts_only() {
        let help = |verb: &str| {
            let mut program = Arguments::command();
            program.build();
            program.find_subcommand_mut(verb).expect("a command").render_long_help().to_string()
        };
        let ask = help("ask");
        let headings =
            ["\nOptions:", "\nGeneration:", "\nModel:", "\nWeights and memory:", "\nKernels of your own:", "\nGPU:"];
        let places: Vec<usize> =
            headings.iter().map(|h| ask.find(h).unwrap_or_else(|| panic!("no {h} in {ask}"))).collect();
        assert!(places.is_sorted(), "{places:?}");
        for (option, from, to) in [("--task", 0, 1), ("--json", 0, 1), ("--quiet", 0, 1), ("--adapter", 5, 6)] {
            let place = ask.rfind(&format!("{option} ")).or(ask.rfind(&format!("{option}\n"))).expect("an option");
            let end = places.get(to).copied().unwrap_or(ask.len());
            assert!((places[from]..end).contains(&place), "{option} at {place} of {places:?}");
        }
        assert!(ask.find("--quiet").is_some_and(|quiet| quiet > ask.find("--attention").expect("an option")));
        assert!(!Arguments::command().render_long_help().to_string().contains("GPU:"));
        for verb in ["plan", "quantize", "completions", "man"] {
            assert!(!help(verb).contains("--adapter") && !help(verb).contains("GPU:"), "{verb}");
        }
        assert!(!help("plan").contains("--no-mmap") && help("devices").contains("--adapter"));
        assert!(!help("devices").contains("--kernels"));
        assert!(help("eval").contains(crate::eval::questions::EXAMPLE));
    }
}
