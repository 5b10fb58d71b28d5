//! A link as a code that a phone reads off the terminal.

use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;

/// The code in half blocks, two rows a line; none if the link has no place in one.
pub fn code(link: &str) -> Option<String> {
    // Dark on light, whatever the terminal's colours: cameras read the other way round badly.
    let code = QrCode::with_error_correction_level(link, qrcode::EcLevel::L).ok()?;
    Some(
        code.render::<Dense1x2>()
            .dark_color(Dense1x2::Light)
            .light_color(Dense1x2::Dark)
            .build(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_fits_into_a_terminal() {
        let link = format!(
            "marey://192.168.100.100:8443,lab-computer.example.org:8443/enrol?device={}&ca={}&token={}",
            "x".repeat(32),
            "a".repeat(64),
            "b".repeat(32)
        );
        let code = code(&link).expect("it fits");
        let widest = code.lines().map(|line| line.chars().count()).max();
        assert!(widest.is_some_and(|widest| widest <= 80), "{widest:?}");
        assert!(code.lines().count() <= 40);
        assert!(super::code(&"x".repeat(5_000)).is_none());
    }
}
