//! The templates: the embedded ones, and those of an operator, which replace them by name.

use std::fmt;
use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, Output, State, UndefinedBehavior, Value, escape_formatter};

use super::error::PagesError;
use super::files::{DEMO_TEMPLATES, OperatorFiles, TEMPLATES};

/// The templates.
#[derive(Debug)]
pub(super) struct Templates {
    environment: Environment<'static>,
    /// The embedded templates alone, if the operator has others.
    embedded: Option<Environment<'static>>,
}

impl Templates {
    /// Loads the templates of the operator over the embedded ones.
    pub(super) fn load(files: OperatorFiles<'_>) -> Result<Self, PagesError> {
        let embedded = embedded().map_err(|error| template_error(files, &error))?;
        let operators = files.templates()?;
        if operators.is_empty() {
            return Ok(Self { environment: embedded, embedded: None });
        }
        let mut environment = embedded.clone();
        for file in operators {
            let added = environment.add_template_owned(file.name, file.text);
            added.map_err(|error| template_error(files, &error))?;
        }
        Ok(Self { environment, embedded: Some(embedded) })
    }

    /// Renders a template. If that of the operator fails, the embedded one is rendered.
    pub(super) fn render(&self, name: &str, context: Value) -> String {
        let rendered = self.try_render(name, context.clone()).or_else(|error| {
            tracing::error!(%error, template = name, "cannot render a page");
            render(self.embedded.as_ref().unwrap_or(&self.environment), name, context)
        });
        rendered.unwrap_or_default()
    }

    /// Renders a template, without a fallback.
    pub(super) fn try_render(&self, name: &str, context: Value) -> Result<String, Error> {
        render(&self.environment, name, context)
    }
}

fn render(environment: &Environment<'_>, name: &str, context: Value) -> Result<String, Error> {
    environment.get_template(name)?.render(context)
}

/// Creates the environment of the embedded templates. Values are escaped, and undefined variables are errors.
fn embedded() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.set_formatter(write_value);
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    for (name, source) in TEMPLATES.into_iter().chain(DEMO_TEMPLATES) {
        environment.add_template(name, source)?;
    }
    Ok(environment)
}

/// Writes a value. Text is escaped for elements and quoted attributes.
///
/// The default formatter also escapes slashes, which makes addresses hard to read in the source of a page.
fn write_value(output: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    match value.as_str() {
        Some(text) if !value.is_safe() => write_escaped(output, text).map_err(Error::from),
        _ => escape_formatter(output, state, value),
    }
}

fn write_escaped(output: &mut Output<'_>, text: &str) -> fmt::Result {
    let mut rest = text;
    while let Some(index) = rest.find(['&', '<', '>', '"', '\'']) {
        output.write_str(&rest[..index])?;
        output.write_str(match rest.as_bytes()[index] {
            b'&' => "&amp;",
            b'<' => "&lt;",
            b'>' => "&gt;",
            b'"' => "&quot;",
            _ => "&#39;",
        })?;
        rest = &rest[index + 1..];
    }
    output.write_str(rest)
}

/// Converts an error of a template into one that names its file and line.
pub(super) fn template_error(files: OperatorFiles<'_>, error: &Error) -> PagesError {
    let name = error.name().unwrap_or_default();
    let problem = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    PagesError::Template {
        path: files.0.map_or_else(|| PathBuf::from(name), |directory: &Path| directory.join(name)),
        line: error.line().unwrap_or(1),
        problem,
    }
}
