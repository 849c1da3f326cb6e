//! Accessibility checks by axe-core 4.14.1, from its npm package. `axe/LICENSE` is its licence, the MPL-2.0.

use serde_json::Value;

use crate::chromium::Chromium;

/// Returns the violations on the page, each with its rule and elements.
pub(crate) async fn violations(browser: &Chromium) -> Vec<String> {
    let script = format!("{AXE}\n{RUN}");
    let Value::Array(found) = browser.run(&script, &[]).await else { panic!("axe returns a list") };
    found.iter().map(|violation| violation.as_str().unwrap().to_owned()).collect()
}

const AXE: &str = include_str!("axe/axe.min.js");

const RUN: &str = r#"
const { violations } = await window.axe.run(document, { resultTypes: ["violations"] });
return violations.map(({ id, help, nodes }) => `${id} (${help}): ${nodes.map(node => node.html).join(" ")}`);
"#;
