//! What an XDF stream says of itself, and its declaration as a stream of Marey's.
//!
//! Owns the reading of a stream's XML and the choice of names: XDF takes any text, Parquet and file systems do not. What was
//! said word for word goes into the log as an event.

use marey_format::types::{Field, NameError};
use marey_format::{Declaration, DeviceId, FieldType, StreamName, limits};
use roxmltree::Node;

/// The head of a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamHeader {
    pub name: String,
    /// Such as `EEG` or `Markers`.
    pub content: String,
    pub channels: Vec<Channel>,
    pub format: Format,
    /// None if samples come irregularly.
    pub rate_hz: Option<f64>,
    pub host: String,
}

/// A channel as its stream describes it; empty where it does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Channel {
    pub label: String,
    pub unit: String,
}

/// How values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    I8,
    I16,
    I32,
    I64,
    F32,
    F64,
    Text,
}

impl Format {
    fn named(name: &str) -> Option<Self> {
        let all = [
            Self::I8,
            Self::I16,
            Self::I32,
            Self::I64,
            Self::F32,
            Self::F64,
            Self::Text,
        ];
        all.into_iter().find(|format| format.name() == name)
    }

    /// What XDF calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::I8 => "int8",
            Self::I16 => "int16",
            Self::I32 => "int32",
            Self::I64 => "int64",
            Self::F32 => "float32",
            Self::F64 => "double64",
            Self::Text => "string",
        }
    }

    /// Bytes of a value; none for text.
    pub fn width(self) -> Option<usize> {
        self.field_type().width()
    }

    pub fn field_type(self) -> FieldType {
        match self {
            Self::I8 => FieldType::I8,
            Self::I16 => FieldType::I16,
            Self::I32 => FieldType::I32,
            Self::I64 => FieldType::I64,
            Self::F32 => FieldType::F32,
            Self::F64 => FieldType::F64,
            Self::Text => FieldType::Utf8,
        }
    }
}

/// No stream has more channels; a number beyond would be damage.
const CHANNELS_MAX: usize = limits::LIST_LENGTH_MAX as usize;

impl StreamHeader {
    /// Reads a stream's XML.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(xml: &[u8]) -> Result<Self, String> {
        let xml = std::str::from_utf8(xml).map_err(|error| format!("its XML is no UTF-8: {error}"))?;
        let document = roxmltree::Document::parse(xml.trim()).map_err(|error| format!("its XML: {error}"))?;
        let info = document.root_element();
        let needed = |name| {
            let text = text(info, name);
            match text.is_empty() {
                true => Err(format!("its XML has no {name}")),
                false => Ok(text),
            }
        };
        let format = needed("channel_format")?;
        let format =
            Format::named(&format).ok_or_else(|| format!("channel_format {format:?} is not known"))?;
        let count = needed("channel_count")?;
        let count = count
            .parse::<usize>()
            .ok()
            .filter(|count| (1..=CHANNELS_MAX).contains(count))
            .ok_or_else(|| format!("channel_count {count:?}: it must be 1 to {CHANNELS_MAX}"))?;
        let rate: f64 = text(info, "nominal_srate").parse().unwrap_or(0.0);
        let described = child(info, "desc").and_then(|desc| child(desc, "channels"));
        let mut channels: Vec<Channel> = described
            .into_iter()
            .flat_map(|channels| channels.children().filter(|node| node.has_tag_name("channel")))
            .take(count)
            .map(|channel| Channel {
                label: text(channel, "label"),
                unit: text(channel, "unit"),
            })
            .collect();
        channels.resize(count, Channel::default());
        Ok(Self {
            name: text(info, "name"),
            content: text(info, "type"),
            channels,
            format,
            rate_hz: Some(rate).filter(|rate| rate.is_finite() && *rate > 0.0),
            host: text(info, "hostname"),
        })
    }

    /// Whether its samples are words that mark moments: events, as Marey has them.
    pub fn is_of_markers(&self) -> bool {
        self.format == Format::Text && self.channels.len() == 1
    }

    /// Whether it can be declared: of text there is no list.
    pub fn fits(&self) -> bool {
        is_declarable(&self.declaration())
    }

    /// Its columns: a field for each channel, or where these are too many for a declaration one list of all.
    pub fn declaration(&self) -> Declaration {
        let described = format!("XDF stream {:?} of type {:?}", self.name, self.content);
        let mut fields = Vec::with_capacity(self.channels.len());
        let mut taken: Vec<StreamName> = Vec::with_capacity(self.channels.len());
        for (number, channel) in (1..).zip(&self.channels) {
            let wanted = stream_name(&channel.label).unwrap_or_else(|| match self.is_of_markers() {
                true => plain("marker"),
                false => plain(&format!("ch{number}")),
            });
            let name = free_name(&wanted, &taken);
            taken.push(name.clone());
            fields.push(Field {
                description: label(&channel.label).filter(|label| label != name.as_str()),
                unit: label(&ucum(&channel.unit)),
                ..field(name, self.format)
            });
        }
        let declaration = Declaration {
            name: stream_name(&self.content).unwrap_or_else(|| plain("samples")),
            fields,
            rate_hz: self.rate_hz,
            sensor: label(&self.name),
            latency_us: None,
            latency_tolerance_us: None,
            description: label(&described),
        };
        if self.format == Format::Text || is_declarable(&declaration) {
            return declaration;
        }
        let list = Field {
            length: Some(self.channels.len() as u32),
            description: Some("all channels, in the order of the file".to_owned()),
            ..field(plain("channels"), self.format)
        };
        Declaration {
            fields: vec![list],
            ..declaration
        }
    }
}

fn is_declarable(declaration: &Declaration) -> bool {
    declaration.check().is_ok() && declaration.to_json().len() <= limits::DECLARATION_BYTES_MAX
}

fn field(name: StreamName, format: Format) -> Field {
    Field {
        name,
        kind: format.field_type(),
        length: None,
        unit: None,
        scale: None,
        offset: None,
        description: None,
    }
}

fn child<'a, 'input>(of: Node<'a, 'input>, name: &str) -> Option<Node<'a, 'input>> {
    of.children().find(|node| node.has_tag_name(name))
}

fn text(of: Node<'_, '_>, name: &str) -> String {
    let text = child(of, name).and_then(|node| node.text());
    text.unwrap_or_default().trim().to_owned()
}

/// What `<name>` says in the XML of a file's header or of a stream's footer; none where it does not, or is no XML.
pub fn said(xml: &[u8], name: &str) -> Option<String> {
    let xml = std::str::from_utf8(xml).ok()?;
    let document = roxmltree::Document::parse(xml.trim()).ok()?;
    Some(text(document.root_element(), name)).filter(|text| !text.is_empty())
}

/// A device's name out of any text, unlike those that are taken, whatever their case.
pub fn device_name(text: &str, taken: &[DeviceId]) -> DeviceId {
    let base = near(text, DeviceId::new).unwrap_or_else(|| DeviceId::new("stream").expect("it is a name"));
    let is_free = |name: &DeviceId| {
        taken
            .iter()
            .all(|other| !other.as_str().eq_ignore_ascii_case(name.as_str()))
    };
    numbered(base.as_str(), '-', DEVICE_NAME_BYTES_MAX, |name| {
        DeviceId::new(name).ok().filter(is_free)
    })
}

const DEVICE_NAME_BYTES_MAX: usize = 32;

fn stream_name(text: &str) -> Option<StreamName> {
    near(&text.to_lowercase(), StreamName::new)
}

fn plain(name: &str) -> StreamName {
    StreamName::new(name).expect("it is a name")
}

fn free_name(wanted: &StreamName, taken: &[StreamName]) -> StreamName {
    numbered(wanted.as_str(), '_', limits::STREAM_NAME_BYTES_MAX, |name| {
        StreamName::new(name).ok().filter(|name| !taken.contains(name))
    })
}

/// `base`, or the first of `base-2`, `base-3` and so on that will do.
fn numbered<N>(base: &str, between: char, longest: usize, will_do: impl Fn(&str) -> Option<N>) -> N {
    (1u64..)
        .map(|number| match number {
            1 => base.to_owned(),
            _ => {
                let end = format!("{between}{number}");
                format!("{}{end}", &base[..base.len().min(longest - end.len())])
            }
        })
        .find_map(|name| will_do(&name))
        .expect("one of endlessly many is free")
}

/// The text as a name, or the name nearest to it.
fn near<N>(text: &str, named: impl Fn(String) -> Result<N, NameError>) -> Option<N> {
    let proposed = match named(text.to_owned()) {
        Ok(name) => return Some(name),
        Err(NameError::Pattern { proposed, .. } | NameError::Reserved { proposed, .. }) => proposed?,
        Err(NameError::NotHex { .. }) => return None,
    };
    // A proposal may be a reserved word in its turn.
    match named(proposed) {
        Ok(name) => Some(name),
        Err(NameError::Reserved { proposed, .. }) => named(proposed?).ok(),
        Err(_) => None,
    }
}

/// Text that fits a declaration; none if nothing is left of it.
pub fn label(text: &str) -> Option<String> {
    let mut label: String = text.chars().filter(|c| !c.is_control()).collect();
    while label.len() > limits::LABEL_BYTES_MAX {
        label.pop();
    }
    Some(label.trim().to_owned()).filter(|label| !label.is_empty())
}

/// UCUM for the units that people write out in XDF files; others as they are.
fn ucum(unit: &str) -> String {
    let code = match unit.to_lowercase().as_str() {
        "microvolt" | "microvolts" | "µv" | "μv" => "uV",
        "millivolt" | "millivolts" => "mV",
        "volt" | "volts" => "V",
        "microsiemens" | "µs" | "μs" => "uS",
        "hertz" => "Hz",
        "percent" => "%",
        "celsius" | "°c" => "Cel",
        "degree" | "degrees" => "deg",
        "radian" | "radians" => "rad",
        "meter" | "meters" | "metre" | "metres" => "m",
        "millimeter" | "millimeters" | "millimetre" | "millimetres" => "mm",
        "second" | "seconds" => "s",
        "millisecond" | "milliseconds" => "ms",
        _ => unit,
    };
    code.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EEG: &str = "<?xml version=\"1.0\"?><info><name>Bio Semi</name><type>EEG</type>\
        <channel_count>4</channel_count><nominal_srate>100</nominal_srate><channel_format>float32</channel_format>\
        <hostname>lab</hostname><desc><channels><channel><label>Fp1</label><unit>microvolts</unit></channel>\
        <channel><label>Time</label><unit>furlong</unit></channel><channel><label>fp1</label></channel></channels></desc></info>";

    #[test]
    fn a_stream_is_declared_with_names_that_parquet_takes() {
        let header = StreamHeader::parse(EEG.as_bytes()).expect("it is well formed");
        assert_eq!((header.format, header.rate_hz), (Format::F32, Some(100.0)));
        let declaration = header.declaration();
        declaration.check().expect("it passes");
        assert_eq!(declaration.name.as_str(), "eeg");
        let names: Vec<&str> = declaration
            .fields
            .iter()
            .map(|field| field.name.as_str())
            .collect();
        assert_eq!(names, ["fp1", "time_", "fp1_2", "ch4"]);
        let units: Vec<_> = declaration
            .fields
            .iter()
            .map(|field| field.unit.as_deref())
            .collect();
        assert_eq!(units, [Some("uV"), Some("furlong"), None, None]);
        assert_eq!(declaration.fields[0].description.as_deref(), Some("Fp1"));
        let devices = [DeviceId::new("bio_semi").expect("a name")];
        assert_eq!(device_name("Bio Semi", &devices).as_str(), "Bio_Semi-2");
        assert_eq!(device_name("", &[]).as_str(), "stream");
        assert_eq!(device_name(&"x".repeat(99), &[]).as_str().len(), 32);
    }

    #[test]
    fn too_many_channels_become_one_list() {
        let many = EEG.replace("<channel_count>4<", "<channel_count>300<");
        let declaration = StreamHeader::parse(many.as_bytes())
            .expect("it is well formed")
            .declaration();
        declaration.check().expect("it passes");
        assert_eq!(
            (declaration.fields.len(), declaration.fields[0].length),
            (1, Some(300))
        );
    }

    #[test]
    fn what_is_wrong_with_a_header_is_said() {
        for (from, to, what) in [
            ("<channel_count>4<", "<channel_count>0<", "channel_count \"0\""),
            (
                "<channel_count>4<",
                "<channel_count>99999999999<",
                "channel_count",
            ),
            (
                ">float32<",
                ">complex<",
                "channel_format \"complex\" is not known",
            ),
            (
                "<channel_format>float32</channel_format>",
                "",
                "no channel_format",
            ),
            ("</info>", "", "its XML"),
        ] {
            let error = StreamHeader::parse(EEG.replace(from, to).as_bytes()).expect_err(what);
            assert!(error.contains(what), "{error}");
        }
        assert!(StreamHeader::parse(&[0xff]).is_err());
        assert_eq!(said(b"<info><a> 3 </a></info>", "a").as_deref(), Some("3"));
        assert_eq!(said(b"<info", "a"), None);
    }
}
