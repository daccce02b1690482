//! Templates of a configuration: compiled once, bounded in what they may do, and escaped for the
//! place where their text goes. What clients send is only ever a value, never a template.

use std::collections::BTreeSet;
use std::fmt::Write;

pub use minijinja::Value as Slot;
use minijinja::value::{Serde, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior};

use super::expression::{Expression, ExpressionError};

/// JSON as a value for templates.
#[must_use]
pub fn slot(value: &serde_json::Value) -> Slot {
    Slot::from(Serde(value))
}

/// Where the text of a template goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Into a path or query: values are percent-encoded, all but letters, digits and `-._~`.
    Target,
    /// Into a header: values keep visible ASCII and blanks, the rest is percent-encoded.
    Header,
    /// Into JSON: values are written as JSON.
    Json,
    /// Into a page: values are escaped for HTML.
    Html,
}

/// Bytes that a template may give: what clients send may stand in it many times.
const OUTPUT: usize = 8 << 20;
/// Steps that a template may take.
const FUEL: u64 = 50_000;
/// Bytes of a template's source.
const SOURCE: usize = 64 << 10;
const NAME: &str = "template";

/// See the module.
#[derive(Debug)]
pub struct Template {
    environment: Environment<'static>,
}

/// Why a template is none, or gave no text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TemplateError(String);

impl From<Error> for TemplateError {
    fn from(error: Error) -> Self {
        let line = error.line().map(|line| format!(" (line {line})"));
        let told = error.detail().map_or_else(
            || error.kind().to_string(),
            |detail| format!("{}: {detail}", error.kind()),
        );
        Self(format!("{told}{}", line.unwrap_or_default()))
    }
}

impl Template {
    /// Compiles a template.
    ///
    /// # Errors
    /// What is wrong with it, and in which line.
    pub fn new(source: &str, place: Place) -> Result<Self, TemplateError> {
        if source.len() > SOURCE {
            return Err(TemplateError(format!("longer than {SOURCE} bytes")));
        }
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(64);
        bound(&mut environment);
        environment.set_auto_escape_callback(move |_| match place {
            Place::Json => AutoEscape::Json,
            Place::Html => AutoEscape::Html,
            Place::Target => AutoEscape::Custom("target".into()),
            Place::Header => AutoEscape::Custom("header".into()),
        });
        if matches!(place, Place::Target | Place::Header) {
            environment.set_formatter(move |out, _, value| {
                let written = escape(&plain(value)?, place, out);
                written.map_err(|_| Error::from(ErrorKind::WriteFailure))
            });
        }
        environment.add_template_owned(NAME, source.to_owned())?;
        Ok(Self { environment })
    }

    /// The names that it looks up: `user`, not `user.id`.
    #[must_use]
    pub fn names(&self) -> BTreeSet<String> {
        let known: BTreeSet<&str> = self.environment.globals().map(|(name, _)| name).collect();
        let template = self.environment.get_template(NAME);
        let found = template.map(|t| t.undeclared_variables(false));
        let names = found.unwrap_or_default().into_iter();
        names.filter(|n| !known.contains(n.as_str())).collect()
    }

    /// Whether its own text ends in a slash, before a query if there is one.
    #[must_use]
    pub fn ends_with_slash(&self) -> bool {
        let template = self.environment.get_template(NAME);
        let source = template.map(|t| t.source().to_owned()).unwrap_or_default();
        source.split('?').next().unwrap_or_default().ends_with('/')
    }

    /// Whether it looks at headers of the request: what it gives is then for who sent those.
    #[must_use]
    pub fn uses_headers(&self) -> bool {
        let template = self.environment.get_template(NAME);
        let found = template.map(|t| t.undeclared_variables(true));
        let names = found.unwrap_or_default();
        names
            .iter()
            .any(|name| name == "request" || name.starts_with("request.header"))
    }

    /// Its text with these values.
    ///
    /// # Errors
    /// A value that is missing or of the wrong kind, or too many steps.
    pub fn render(&self, values: &Slot) -> Result<String, TemplateError> {
        let template = self.environment.get_template(NAME)?;
        let mut out = Bounded::default();
        match template.render_captured_to(values.clone(), &mut out) {
            Ok(_) => {}
            Err(_) if out.full => {
                return Err(TemplateError(format!("gives more than {OUTPUT} bytes")));
            }
            Err(error) => return Err(error.into()),
        }
        String::from_utf8(out.text).map_err(|error| TemplateError(error.to_string()))
    }
}

/// Takes away what makes much out of little, or looks through a list for each item of another: how
/// much would be a client's to say.
fn bound(environment: &mut Environment<'static>) {
    for name in ["indent", "format", "batch", "slice", "center"] {
        environment.remove_filter(name);
    }
    environment.remove_test("in");
    environment.add_filter("join", join);
    environment.add_filter("replace", replace);
}

fn too_long() -> Error {
    Error::new(
        ErrorKind::InvalidOperation,
        format!("more than {OUTPUT} bytes"),
    )
}

/// The items of a list as one text.
fn join(list: &Slot, between: Option<String>) -> Result<String, Error> {
    let between = between.unwrap_or_default();
    let mut out = String::new();
    for (index, item) in list.try_iter()?.enumerate() {
        if index > 0 {
            out.push_str(&between);
        }
        let text = item
            .as_str()
            .map_or_else(|| item.to_string(), str::to_owned);
        out.push_str(&text);
        if out.len() > OUTPUT {
            return Err(too_long());
        }
    }
    Ok(out)
}

/// A text with another in place of a part.
fn replace(text: String, from: String, to: String) -> Result<String, Error> {
    if from.is_empty() {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            "nothing to replace",
        ));
    }
    let longer = text.matches(&from).count().saturating_mul(to.len());
    match text.len().saturating_add(longer) > OUTPUT {
        true => Err(too_long()),
        false => Ok(text.replace(&from, &to)),
    }
}

/// Writes what goes into a target or a header.
fn escape(text: &str, place: Place, out: &mut impl Write) -> std::fmt::Result {
    for byte in text.bytes() {
        let kept = match place {
            Place::Target => byte.is_ascii_alphanumeric() || b"-._~".contains(&byte),
            _ => (0x20..0x7f).contains(&byte) && byte != b'%',
        };
        match kept {
            true => out.write_char(char::from(byte))?,
            false => write!(out, "%{byte:02X}")?,
        }
    }
    Ok(())
}

/// What makes a value: a template, or after `cel:` an expression.
#[derive(Debug)]
pub enum Maker {
    /// A template.
    Template(Template),
    /// An expression, and where its value goes.
    Expression(Expression, Place),
}

impl Maker {
    /// Compiles either. It may look up these names.
    ///
    /// # Errors
    /// What is wrong with it; the first name that is not known.
    pub fn new(source: &str, place: Place, known: &[&str]) -> Result<Self, TemplateError> {
        let told = |error: ExpressionError| TemplateError(error.to_string());
        if let Some(source) = source.trim_start().strip_prefix(Self::CEL) {
            let expression = Expression::knowing(source, known).map_err(told)?;
            return Ok(Self::Expression(expression, place));
        }
        let template = Template::new(source, place)?;
        match template
            .names()
            .iter()
            .find(|name| !known.contains(&name.as_str()))
        {
            None => Ok(Self::Template(template)),
            Some(name) => {
                let known = known.join("`, `");
                let told = format!("`{name}` is not known here, only `{known}`");
                Err(TemplateError(told))
            }
        }
    }

    /// What stands before an expression.
    pub const CEL: &str = "cel:";

    /// Whether it looks up a name.
    #[must_use]
    pub fn uses(&self, name: &str) -> bool {
        match self {
            Self::Template(template) => template.names().contains(name),
            Self::Expression(expression, _) => expression.uses(name),
        }
    }

    /// The value with these, as text for its place.
    ///
    /// # Errors
    /// A value that is missing or of the wrong kind, or too many steps.
    pub fn render(&self, values: &Slot) -> Result<String, TemplateError> {
        let (expression, place) = match self {
            Self::Template(template) => return template.render(values),
            Self::Expression(expression, place) => (expression, *place),
        };
        let wrong = |told: &str| TemplateError(told.to_owned());
        let Ok(serde_json::Value::Object(values)) = serde_json::to_value(values) else {
            return Err(wrong("values of another kind"));
        };
        let value = expression.value(&values);
        let value = value.map_err(|error| TemplateError(error.to_string()))?;
        match place {
            Place::Json => Ok(value.to_string()),
            Place::Target | Place::Header | Place::Html => {
                let mut out = String::new();
                let plain = plain(&slot(&value))?;
                escape(&plain, place, &mut out).map_err(|_| wrong("no text"))?;
                Ok(out)
            }
        }
    }
}

/// Text that does not grow for ever.
#[derive(Default)]
struct Bounded {
    text: Vec<u8>,
    full: bool,
}

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.text.len() + bytes.len() > OUTPUT {
            self.full = true;
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A value as plain text.
fn plain(value: &Slot) -> Result<String, Error> {
    match value.kind() {
        ValueKind::String | ValueKind::Number | ValueKind::Bool => Ok(value.to_string()),
        ValueKind::Undefined => Err(ErrorKind::UndefinedError.into()),
        kind => Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("expected a text or number, found {kind}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn text(source: &str, place: Place) -> Result<String, TemplateError> {
        let values = json!({ "user": { "id": "a/b ?%\r\nX: y", "age": 7, "name": "\"Bo\" <b>" } });
        Template::new(source, place)?.render(&slot(&values))
    }

    #[test]
    fn values_are_escaped_for_their_place() {
        assert_eq!(
            text("/u/{{ user.id }}?n={{ user.age }}", Place::Target),
            Ok("/u/a%2Fb%20%3F%25%0D%0AX%3A%20y?n=7".into())
        );
        assert_eq!(
            text("id={{ user.id }}", Place::Header),
            Ok("id=a/b ?%25%0D%0AX: y".into())
        );
        assert_eq!(
            text(
                "{\"n\": {{ user.name }}, \"u\": {{ user.age }} }",
                Place::Json
            ),
            Ok("{\"n\": \"\\\"Bo\\\" <b>\", \"u\": 7 }".into())
        );
        assert!(
            text("<p>{{ user.name }}", Place::Html)
                .unwrap()
                .contains("&lt;b&gt;")
        );
    }

    #[test]
    fn what_is_missing_or_endless_is_an_error() {
        for (source, place) in [
            ("{{ user.none }}", Place::Target),
            ("{{ nobody.id }}", Place::Json),
            ("{{ user }}", Place::Target),
            ("{{ user", Place::Json),
            (
                "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}",
                Place::Json,
            ),
            ("{% include 'other' %}", Place::Json),
        ] {
            assert!(text(source, place).is_err(), "{source}");
        }
        assert_eq!(
            text("{{ user.none | default('x') }}", Place::Target),
            Ok("x".into())
        );
    }

    #[test]
    fn what_they_give_has_an_end() {
        let values = json!({ "items": vec![""; 3000], "prefix": "p".repeat(200_000) });
        let source = "\"{% for i in items %}{{ prefix }}{% endfor %}\"";
        let error = Template::new(source, Place::Json)
            .unwrap()
            .render(&slot(&values));
        assert_eq!(
            error.unwrap_err().to_string(),
            format!("gives more than {OUTPUT} bytes")
        );
    }

    #[test]
    fn what_is_made_inside_has_an_end_too() {
        let values = json!({
            "items": vec![""; 2000], "s": "ab".repeat(200_000), "n": 1_000_000_000_000_000_000u64,
        });
        let made = |source: &str, place| {
            Template::new(source, place).and_then(|t| t.render(&slot(&values)))
        };
        for source in [
            "{{ items | join(s) | length }}",
            "{{ s | replace('a', s) | length }}",
            "{{ s | indent(n) | length }}",
            "{{ s * n }}",
            "{{ '%999999999999d' | format(n) }}",
            "{{ items | batch(n) }}",
            "{{ items | reject('in', items) | list }}",
        ] {
            assert!(made(source, Place::Json).is_err(), "{source}");
        }
        let fine = "{{ 'a-b' | replace('-', '+') }}{{ ['x', 1] | join(',') }}";
        assert_eq!(made(fine, Place::Target), Ok("a%2Bbx%2C1".to_owned()));
    }

    #[test]
    fn expressions_make_values_too() {
        let values = json!({ "user": { "id": "a\r\nb", "age": 7, "tags": ["x", "y"] } });
        let made = |source: &str, place| {
            Maker::new(source, place, &["user"]).and_then(|m| m.render(&slot(&values)))
        };
        for (source, place, want) in [
            ("cel: user.age > 5 ? 'old' : 'new'", Place::Header, "old"),
            ("cel:user.id", Place::Header, "a%0D%0Ab"),
            ("cel: user.id + '/'", Place::Target, "a%0D%0Ab%2F"),
            (
                "cel: user.tags.map(t, t + '!')",
                Place::Json,
                "[\"x!\",\"y!\"]",
            ),
            ("cel: {'n': user.age + 1}", Place::Json, "{\"n\":8}"),
            ("{{ user.age }}", Place::Header, "7"),
        ] {
            assert_eq!(made(source, place), Ok(want.to_owned()), "{source}");
        }
        for (source, place) in [
            ("cel: user.none", Place::Header),
            ("cel: user.tags", Place::Header),
            ("cel: null", Place::Header),
            ("cel: other.id", Place::Json),
            ("cel: user.age +", Place::Json),
            ("{{ other.id }}", Place::Json),
        ] {
            assert!(made(source, place).is_err(), "{source}");
        }
    }

    #[test]
    fn names_are_the_roots() {
        let template = Template::new(
            "{% for o in orders.list %}{{ o.id }}{{ range(3) }}{% endfor %}{{ user.a.b }}",
            Place::Json,
        );
        let names: Vec<String> = template.unwrap().names().into_iter().collect();
        assert_eq!(names, ["orders", "user"]);
    }
}
