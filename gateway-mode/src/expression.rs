//! Conditions in CEL, the Common Expression Language: compiled at load, bounded in what they may do.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use cel::common::ast::{EntryExpr, Expr, IdedExpr};
use cel::{Context, Program, Value};
use serde_json::Value as Json;

/// Bytes of an expression: what its parser takes grows faster than its text.
const SOURCE: usize = 1024;
/// Names that an expression may look up.
pub const NAMES: [&str; 4] = ["request", "source", "claims", "consumer"];

/// See the module.
pub struct Expression {
    program: Program,
    source: Box<str>,
    names: BTreeSet<String>,
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Expression({})", self.source)
    }
}

/// Why a text is no expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ExpressionError(String);

impl Expression {
    /// Compiles an expression. Lists may be gone through, but not inside each other: the time that
    /// would take grows with what clients send.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(source: &str) -> Result<Self, ExpressionError> {
        Self::knowing(source, &NAMES)
    }

    /// The same with other names that it may look up.
    ///
    /// # Errors
    /// What is wrong with it.
    ///
    /// What looks at a body, which may be a megabyte of a client's, may not look at anything else for
    /// each item of a list, add up more than a few things, or take patterns from it: what that costs
    /// grows faster than the body.
    pub fn knowing(source: &str, known: &[&str]) -> Result<Self, ExpressionError> {
        if source.len() > SOURCE {
            return Err(ExpressionError(format!("longer than {SOURCE} bytes")));
        }
        let program = Program::compile(source).map_err(|errors| {
            let first = errors.errors.first();
            let told = first.map_or_else(|| errors.to_string(), |e| e.msg.clone());
            ExpressionError(told.lines().next().unwrap_or_default().to_owned())
        })?;
        let mut walk = Walk::default();
        walk.visit(program.expression(), 0);
        if walk.deepest > 1 {
            let told = "goes through a list inside another".to_owned();
            return Err(ExpressionError(told));
        }
        if walk.patterns_inside {
            let told =
                "takes a pattern for each item of a list: use `startsWith`, `endsWith`, `contains`";
            return Err(ExpressionError(told.to_owned()));
        }
        if let Some(name) = known.iter().find(|name| walk.bound.contains(**name)) {
            return Err(ExpressionError(format!("`{name}` has a meaning already")));
        }
        let references = program.references();
        let variables = references.variables();
        let foreign = variables
            .iter()
            .find(|name| !known.contains(*name) && !walk.bound.contains(**name));
        if let Some(name) = foreign {
            let known = known.join("`, `");
            return Err(ExpressionError(format!(
                "`{name}` is not known here, only `{known}`"
            )));
        }
        if references.has_variable("body") {
            walk.bounded()?;
        }
        let used = known.iter().filter(|name| references.has_variable(**name));
        let names = used.map(|name| (*name).to_owned()).collect();
        Ok(Self {
            source: source.into(),
            names,
            program,
        })
    }

    /// Whether it looks a name up: nothing else need be gathered.
    #[must_use]
    pub fn uses(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// Whether it holds with these values; `None` where it cannot be said, since something is
    /// missing, or of another kind.
    #[must_use]
    pub fn holds(&self, values: &serde_json::Map<String, Json>) -> Option<bool> {
        match self.execute(values) {
            Ok(Value::Bool(holds)) => Some(holds),
            _ => None,
        }
    }

    /// What it comes to with these values.
    ///
    /// # Errors
    /// Something that is missing, or of another kind.
    pub fn value(&self, values: &serde_json::Map<String, Json>) -> Result<Json, ExpressionError> {
        let value = self.execute(values)?;
        value
            .json()
            .map_err(|error| ExpressionError(error.to_string()))
    }

    fn execute(&self, values: &serde_json::Map<String, Json>) -> Result<Value, ExpressionError> {
        let mut context = Context::default();
        for (name, value) in values.iter().filter(|(name, _)| self.uses(name)) {
            context.add_variable_from_value(name.as_str(), of_json(value));
        }
        let done = self.program.execute(&context);
        done.map_err(|error| ExpressionError(error.to_string()))
    }
}

/// JSON as a value. Whole numbers are signed, as those in expressions are: others can only be compared
/// with them.
fn of_json(value: &Json) -> Value {
    match value {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::Int(number),
            (None, Some(number)) => Value::UInt(number),
            (None, None) => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::String(Arc::new(text.clone())),
        Json::Array(list) => Value::List(Arc::new(list.iter().map(of_json).collect())),
        Json::Object(members) => {
            let members = members.iter();
            let members = members.map(|(name, value)| (name.as_str(), of_json(value)));
            Value::Map(members.collect::<HashMap<_, _>>().into())
        }
    }
}

/// How deep lists are gone through, and the names that this brings.
#[derive(Default)]
struct Walk {
    deepest: usize,
    bound: BTreeSet<String>,
    /// Looked up inside a list.
    inside: BTreeSet<String>,
    sums: usize,
    /// A pattern that is not written down here.
    foreign_pattern: bool,
    /// A pattern for each item of a list.
    patterns_inside: bool,
}

impl Walk {
    /// Whether what it costs grows no faster than what it looks at.
    fn bounded(&self) -> Result<(), ExpressionError> {
        /// Things that may be added up, apart from what going through a list brings.
        const SUMS: usize = 8;
        let told = if let Some(name) = self.inside.difference(&self.bound).next() {
            format!("looks at `{name}` for each item of a list")
        } else if self.sums > SUMS {
            format!("adds up more than {SUMS} things")
        } else if self.foreign_pattern {
            "takes a pattern from what it looks at".to_owned()
        } else {
            return Ok(());
        };
        Err(ExpressionError(format!("looks at a body, and {told}")))
    }

    fn visit(&mut self, expression: &IdedExpr, depth: usize) {
        self.deepest = self.deepest.max(depth);
        match &expression.expr {
            Expr::Unspecified | Expr::Literal(_) => {}
            Expr::Ident(name) if depth > 0 => {
                self.inside.insert(name.clone());
            }
            Expr::Ident(_) => {}
            Expr::Call(call) => {
                self.sums += usize::from(call.func_name == "_+_");
                let pattern = call.args.last().filter(|_| call.func_name == "matches");
                let written = pattern.is_none_or(|p| matches!(p.expr, Expr::Literal(_)));
                self.foreign_pattern |= !written;
                // Each would be read anew.
                self.patterns_inside |= pattern.is_some() && depth > 0;
                let all = call.target.as_deref().into_iter().chain(&call.args);
                all.for_each(|e| self.visit(e, depth));
            }
            Expr::Comprehension(inner) => {
                self.bound.insert(inner.iter_var.clone());
                self.bound.extend(inner.iter_var2.clone());
                self.bound.insert(inner.accu_var.clone());
                self.visit(&inner.iter_range, depth);
                for part in [
                    &inner.accu_init,
                    &inner.loop_cond,
                    &inner.loop_step,
                    &inner.result,
                ] {
                    self.visit(part, depth + 1);
                }
                self.deepest = self.deepest.max(depth + 1);
            }
            Expr::List(list) => list.elements.iter().for_each(|e| self.visit(e, depth)),
            Expr::Map(map) => self.entries(&map.entries, depth),
            Expr::Select(select) => self.visit(&select.operand, depth),
            Expr::Struct(of) => self.entries(&of.entries, depth),
        }
    }

    fn entries(&mut self, entries: &[cel::common::ast::IdedEntryExpr], depth: usize) {
        for entry in entries {
            match &entry.expr {
                EntryExpr::StructField(field) => self.visit(&field.value, depth),
                EntryExpr::MapEntry(pair) => {
                    self.visit(&pair.key, depth);
                    self.visit(&pair.value, depth);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn holds(source: &str) -> Option<bool> {
        let values = json!({
            "request": { "method": "GET", "path": "/a/b", "headers": { "x-a": "1" } },
            "claims": { "tier": "gold", "groups": ["a", "b"], "n": 3 },
        });
        let Json::Object(values) = values else {
            panic!()
        };
        Expression::new(source).unwrap().holds(&values)
    }

    #[test]
    fn conditions() {
        for (source, want) in [
            (
                "request.method == 'GET' && claims.tier in ['gold', 'silver']",
                Some(true),
            ),
            ("request.path.startsWith('/b')", Some(false)),
            ("claims.groups.exists(g, g == 'b')", Some(true)),
            ("claims.n > 2", Some(true)),
            ("has(claims.none)", Some(false)),
            ("claims.none == 'x'", None),
            ("claims.tier", None),
            ("claims.tier > 1", None),
            ("request.path.matches('^/a/[a-z]+$')", Some(true)),
            ("consumer.name == 'x'", None),
            ("'x-a' in request.headers", Some(true)),
        ] {
            assert_eq!(holds(source), want, "{source}");
        }
    }

    #[test]
    fn what_looks_at_bodies_costs_no_more_than_they_are_long() {
        let known = ["body", "claims"];
        for bad in [
            "body.items.map(i, body.prefix + i)",
            "body.items.all(i, i in body.allowed)",
            "body.items.map(i, i + claims.sub)",
            "body.a.matches(body.b)",
            "body.items.filter(i, i.matches('^a'))",
            "claims.groups.exists(g, g.matches('^a'))",
            "[0].exists(body, body == 0) ? size(body.items.map(i, body.prefix + i)) : 0",
            "matches(body.a, body.b)",
            "body.a+body.a+body.a+body.a+body.a+body.a+body.a+body.a+body.a+body.a",
        ] {
            assert!(Expression::knowing(bad, &known).is_err(), "{bad}");
        }
        for fine in [
            "body.items.filter(i, i.n > 3).map(i, i.id + '!')",
            "body.a + claims.sub",
            "body.a in body.list",
            "body.a.matches('^a+$')",
            "claims.groups.exists(g, g in claims.other)",
        ] {
            assert!(Expression::knowing(fine, &known).is_ok(), "{fine}");
        }
    }

    #[test]
    fn what_is_no_expression() {
        for source in [
            "",
            "a b",
            "request.",
            "other == 1",
            "claims.groups.all(a, claims.groups.all(b, a == b))",
            &"a".repeat(2000),
        ] {
            assert!(Expression::new(source).is_err(), "{source}");
        }
        let simple = Expression::new("request.path == '/'").unwrap();
        assert!(simple.uses("request") && !simple.uses("claims"));
    }
}
