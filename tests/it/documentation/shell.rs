//! A splitter of shell scripts into commands, for the examples in the documentation.

/// Splits a script into simple commands, each a list of words. Knows quotes, comments, line continuations,
/// redirections and the operators between commands.
pub(super) fn commands(script: &str) -> Vec<Vec<String>> {
    let mut splitter = Splitter::default();
    let mut chars = script.chars().peekable();
    while let Some(c) = chars.next() {
        match (splitter.quote, c) {
            (Some(quote), _) if c == quote => splitter.quote = None,
            (Some(_), _) => splitter.push(c),
            (None, '\'' | '"') => splitter.open_quote(c),
            (None, '\\') => match chars.next() {
                Some('\n') | None => splitter.end_word(),
                Some(escaped) => splitter.push(escaped),
            },
            (None, '#') if splitter.word.is_none() => while chars.next_if(|c| *c != '\n').is_some() {},
            (None, '<' | '>') => splitter.redirect(),
            (None, '\n' | ';' | '&' | '|' | '(' | ')') => splitter.end_command(),
            (None, c) if c.is_whitespace() => splitter.end_word(),
            (None, c) => splitter.push(c),
        }
    }
    splitter.end_command();
    splitter.commands
}

#[derive(Default)]
struct Splitter {
    commands: Vec<Vec<String>>,
    command: Vec<String>,
    word: Option<String>,
    quote: Option<char>,
    is_redirected: bool,
}

impl Splitter {
    fn push(&mut self, c: char) {
        self.word.get_or_insert_default().push(c);
    }

    fn open_quote(&mut self, quote: char) {
        self.quote = Some(quote);
        self.word.get_or_insert_default();
    }

    /// Discards the number of a file descriptor before the operator, and later the word after it.
    fn redirect(&mut self) {
        if self.word.take_if(|word| word.parse::<u8>().is_ok()).is_none() {
            self.end_word();
        }
        self.is_redirected = true;
    }

    fn end_word(&mut self) {
        if let Some(word) = self.word.take() {
            if !self.is_redirected {
                self.command.push(word);
            }
            self.is_redirected = false;
        }
    }

    fn end_command(&mut self) {
        self.end_word();
        if !self.command.is_empty() {
            self.commands.push(std::mem::take(&mut self.command));
        }
    }
}

#[test]
fn script_is_split_into_commands() {
    let script = "a 'b c'\"d\" \\\n  e # f\nA=1 g >h 2>i j & k <<<l && m $(n | o);p# q\n";
    let expected =
        [&["a", "b cd", "e"][..], &["A=1", "g", "j"], &["k"], &["m", "$"], &["n"], &["o"], &["p#", "q"]];
    assert_eq!(commands(script), expected);
}
