//! The parts of a Markdown page that the tests look at.

use std::collections::BTreeSet;

/// A page.
pub(super) struct Page {
    /// Path below the root of the repository.
    pub(super) path: String,
    /// The anchors of its headings.
    pub(super) anchors: BTreeSet<String>,
    /// The fenced code blocks.
    pub(super) blocks: Vec<CodeBlock>,
    /// The targets of its links and images.
    pub(super) links: Vec<Located>,
    /// The texts in backquotes.
    pub(super) code_spans: Vec<Located>,
}

/// A fenced code block.
pub(super) struct CodeBlock {
    /// Number of the line of its opening fence.
    pub(super) line: usize,
    pub(super) language: String,
    pub(super) text: String,
}

/// A text and the number of its line.
pub(super) struct Located {
    pub(super) line: usize,
    pub(super) text: String,
}

impl Page {
    pub(super) fn parse(path: &str, text: &str) -> Self {
        let mut page = Self {
            path: path.to_owned(),
            anchors: BTreeSet::new(),
            blocks: Vec::new(),
            links: Vec::new(),
            code_spans: Vec::new(),
        };
        let mut prose: Vec<String> = Vec::new();
        let mut open: Option<CodeBlock> = None;
        for (index, line) in text.lines().enumerate() {
            let fence = line.trim_start().strip_prefix("```");
            // A code block is an empty line of the prose, so that line numbers stay.
            prose.push(String::new());
            match (open.take(), fence) {
                (Some(block), Some(_)) => page.blocks.push(block),
                (Some(mut block), None) => {
                    block.text.push_str(line);
                    block.text.push('\n');
                    open = Some(block);
                }
                (None, Some(language)) => {
                    open = Some(CodeBlock {
                        line: index + 1,
                        language: language.to_owned(),
                        text: String::new(),
                    });
                }
                (None, None) => prose[index] = line.to_owned(),
            }
        }
        assert!(open.is_none(), "{path}: a code block is not closed");
        page.add_headings(&prose);
        page.add_spans(&prose.join("\n"));
        page
    }

    /// Returns `path:line`.
    pub(super) fn at(&self, line: usize) -> String {
        format!("{}:{line}", self.path)
    }

    fn add_headings(&mut self, prose: &[String]) {
        for heading in prose.iter().filter_map(|line| heading(line)) {
            let anchor = anchor(heading);
            // Further headings of the same text get a number.
            let numbered = (1..).map(|number| format!("{anchor}-{number}"));
            let free = [anchor.clone()].into_iter().chain(numbered).find(|name| !self.anchors.contains(name));
            self.anchors.extend(free);
        }
    }

    /// Splits the prose at backquotes: every second part is code.
    fn add_spans(&mut self, prose: &str) {
        let mut line = 1;
        for (index, part) in prose.split('`').enumerate() {
            if index % 2 == 1 {
                self.code_spans.push(Located { line, text: part.replace('\n', " ") });
            }
            line += part.matches('\n').count();
        }
        for (index, text) in prose.lines().enumerate() {
            let ends = text.match_indices("](").filter_map(|(start, mark)| text.get(start + mark.len()..));
            let targets = ends.filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
            self.links.extend(targets.map(|text| Located { line: index + 1, text: text.to_owned() }));
        }
    }
}

fn heading(line: &str) -> Option<&str> {
    let text = line.trim_start_matches('#');
    (text.len() < line.len()).then(|| text.strip_prefix(' ')).flatten()
}

/// Returns the anchor that GitHub gives to a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn page_is_split_into_its_parts() {
    let text = "# A `b.c_d`: E\n\nSee [x](y.md#z) and `sekisho\nserve`.\n\n```sh\n# no\n```\n## F\n## F\n";
    let page = Page::parse("p.md", text);
    assert_eq!(page.anchors.iter().collect::<Vec<_>>(), ["a-bc_d-e", "f", "f-1"]);
    assert_eq!((page.links[0].line, &*page.links[0].text), (3, "y.md#z"));
    assert_eq!((page.code_spans[1].line, &*page.code_spans[1].text), (3, "sekisho serve"));
    let block = &page.blocks[0];
    assert_eq!((block.line, &*block.language, &*block.text), (6, "sh", "# no\n"));
}
