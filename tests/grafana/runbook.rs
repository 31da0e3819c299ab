//! docs/RUNBOOK.md: its entries, and the commands in them.

use super::read;

/// Each entry's title and text, in their order.
pub fn entries() -> Vec<(String, String)> {
    sections().skip(1).collect()
}

/// What stands before the first entry.
pub fn introduction() -> String {
    sections().next().unwrap().1
}

fn sections() -> impl Iterator<Item = (String, String)> {
    let text = read("docs/RUNBOOK.md");
    let sections: Vec<_> = text.split("\n## ").map(|section| section.split_once('\n').unwrap()).collect();
    let owned = sections.iter().map(|(title, text)| ((*title).to_owned(), text.trim().to_owned()));
    owned.collect::<Vec<_>>().into_iter()
}

/// The commands of an entry, as they are to be typed, one a line; an indented line goes on with the one before it.
pub fn commands(entry: &str) -> Vec<String> {
    let blocks = entry.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap().replace("\n  ", ""));
    blocks.flat_map(|block| block.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}
