//! The colour of buttons: `pages.accent`.

use std::fmt::Write as _;
use std::str::FromStr;

/// A colour in hexadecimal notation: `#rrggbb` or `#rgb`.
///
/// ```
/// use sekisho::pages::Accent;
///
/// assert!("#1a7f5a".parse::<Accent>().is_ok());
/// assert!("green".parse::<Accent>().is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accent {
    red: u8,
    green: u8,
    blue: u8,
}

/// Error of parsing an [`Accent`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a colour such as #1a7f5a")]
pub struct NotAColor;

impl FromStr for Accent {
    type Err = NotAColor;

    fn from_str(text: &str) -> Result<Self, NotAColor> {
        let digits = text.strip_prefix('#').ok_or(NotAColor)?;
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(NotAColor);
        }
        let number = u32::from_str_radix(digits, 16).map_err(|_| NotAColor)?;
        let [_, red, green, blue] = match digits.len() {
            // Each digit stands for two.
            3 => ((number & 0xf00) * 0x1100 + (number & 0xf0) * 0x110 + (number & 0xf) * 0x11).to_be_bytes(),
            6 => number.to_be_bytes(),
            _ => return Err(NotAColor),
        };
        Ok(Self { red, green, blue })
    }
}

impl Accent {
    /// Returns the stylesheet that sets the colour, and a text colour that is legible on it.
    pub(super) fn stylesheet(self) -> String {
        let Self { red, green, blue } = self;
        let mut css = String::new();
        let _ = writeln!(
            css,
            ":root {{\n  --button: #{red:02x}{green:02x}{blue:02x};\n  --on-button: {};\n}}",
            self.text_color()
        );
        css
    }

    /// Returns white or black, whichever has the higher contrast (WCAG 2.2, at least 4.5 to 1).
    fn text_color(self) -> &'static str {
        // Contrast with white is 1.05 / (l + 0.05), with black (l + 0.05) / 0.05. They are equal at 0.179.
        if self.luminance() > 0.179 { "#000" } else { "#fff" }
    }

    /// Returns the relative luminance as WCAG 2.2 defines it.
    fn luminance(self) -> f64 {
        let linear = |value: u8| {
            let value = f64::from(value) / 255.0;
            if value <= 0.040_45 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * linear(self.red) + 0.7152 * linear(self.green) + 0.0722 * linear(self.blue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hexadecimal_colors_are_accepted() {
        for text in
            ["", "#", "red", "#12345", "#1234567", "1a7f5a", "#1a7f5g", "#+12345", "#ffff", "#fff;", "#ｆff"]
        {
            assert_eq!(text.parse::<Accent>(), Err(NotAColor), "{text}");
        }
        assert_eq!("#F0a".parse(), Ok(Accent { red: 0xff, green: 0, blue: 0xaa }));
        assert_eq!("#ff00aa".parse(), Ok(Accent { red: 0xff, green: 0, blue: 0xaa }));
    }

    #[test]
    fn text_on_the_accent_is_legible() {
        for (accent, text) in [("#fff", "#000"), ("#000", "#fff"), ("#b0321d", "#fff"), ("#ffd400", "#000")] {
            let css = accent.parse::<Accent>().unwrap().stylesheet();
            assert!(css.contains(&format!("--on-button: {text};")), "{css}");
        }
        assert_eq!(
            "#1a7f5a".parse::<Accent>().unwrap().stylesheet(),
            ":root {\n  --button: #1a7f5a;\n  --on-button: #fff;\n}\n"
        );
    }
}
