//! Policies of the configuration that change requests and responses.

use std::collections::BTreeMap;

use regex::Regex;
use selvedge_contract::config::{BodyTransform, PathReplacement, Transform as TransformSpec};
use selvedge_contract::defaults::policy as defaults;
use selvedge_gateway::body::Path;
use selvedge_gateway::template::{Maker, Place};
use serde_json::Value;

use crate::policy::transform::{BodyEdit, Given, Side, Transform};

use super::{At, Pass};

/// What templates know.
const GIVEN: [&str; 5] = ["request", "claims", "consumer", "status", "body"];

impl Pass<'_> {
    /// A `transform` policy.
    pub(super) fn transform(&mut self, at: &At, spec: &TransformSpec) -> Transform {
        let mut transform = Transform::default();
        if let Some(spec) = &spec.request {
            let at = at.then("request");
            let body = spec.body.as_ref();
            transform.request = Side {
                headers: self.header_templates(&at, &spec.headers),
                removed: self.removed_headers(&at, &spec.remove_headers),
                body: body.map(|body| self.body_edit(&at.then("body"), body)),
            };
            let path = spec.path.as_ref();
            transform.path = path.and_then(|path| self.path_replacement(&at.then("path"), path));
            for (name, source) in &spec.query {
                let at = at.then("query").then(name);
                let template = self.maker(&at, source, Place::Target, &GIVEN[..3]);
                transform.query.extend(template.map(|t| (name.clone(), t)));
            }
            transform.query_removed.clone_from(&spec.remove_query);
        }
        if let Some(spec) = &spec.response {
            let at = at.then("response");
            let body = spec.body.as_ref();
            transform.response = Side {
                headers: self.header_templates(&at, &spec.headers),
                removed: self.removed_headers(&at, &spec.remove_headers),
                body: body.map(|body| self.body_edit(&at.then("body"), body)),
            };
        }
        transform.has_templates = !transform.query.is_empty()
            || transform.request.has_templates()
            || transform.response.has_templates();
        transform
    }

    fn maker(&mut self, at: &At, source: &str, place: Place, known: &[&str]) -> Option<Maker> {
        match Maker::new(source, place, known) {
            Ok(maker) => Some(maker),
            Err(error) => {
                let remedy =
                    "expected a template such as `{{ claims.sub }}`, or `cel:` and an expression";
                self.error(at, error.to_string(), remedy);
                None
            }
        }
    }

    fn header_templates(
        &mut self,
        at: &At,
        headers: &BTreeMap<String, String>,
    ) -> Vec<(String, Maker)> {
        let mut list = Vec::new();
        for (name, source) in headers {
            let at = at.then("headers").then(name);
            let template = self.maker(&at, source, Place::Header, &GIVEN[..4]);
            if self.header_name(&at, name) {
                list.extend(template.map(|template| (name.clone(), template)));
            }
        }
        list
    }

    fn removed_headers(&mut self, at: &At, names: &[String]) -> Vec<String> {
        let at = at.then("removeHeaders");
        let names = names.iter().enumerate();
        names
            .filter(|(nth, name)| self.header_name(&at.nth(*nth), name))
            .map(|(_, name)| name.clone())
            .collect()
    }

    fn path_replacement(&mut self, at: &At, spec: &PathReplacement) -> Option<(Regex, String)> {
        match Regex::new(&spec.regex) {
            Ok(regex) => Some((regex, spec.replacement.clone())),
            Err(error) => {
                let told = error.to_string();
                let told = told.lines().last().unwrap_or_default().to_owned();
                self.error(&at.then("regex"), told, "expected a regular expression");
                None
            }
        }
    }

    fn body_edit(&mut self, at: &At, spec: &BodyTransform) -> BodyEdit {
        let mut edit = BodyEdit {
            remove: Vec::new(),
            rename: Vec::new(),
            set: Vec::new(),
            template: None,
            looks_at_body: false,
            values: defaults::TRANSFORM_VALUES,
            largest: usize::try_from(spec.largest.map_or(defaults::TRANSFORM, |s| s.0))
                .unwrap_or(usize::MAX),
        };
        for (nth, text) in spec.remove.iter().enumerate() {
            let path: Option<Path> = self.parse(&at.then("remove").nth(nth), text);
            edit.remove.extend(path);
        }
        for (text, name) in &spec.rename {
            let at = at.then("rename").then(text);
            let path: Option<Path> = self.parse(&at, text);
            if path.as_ref().is_some_and(|path| !path.ends_in_member()) {
                let message = format!("`{text}` names no member");
                self.error(&at, message, "only members can be renamed");
            }
            edit.rename.extend(path.map(|path| (path, name.clone())));
        }
        for (text, value) in &spec.set {
            let at = at.then("set").then(text);
            let path: Option<Path> = self.parse(&at, text);
            let given = match value {
                Value::String(source) if is_made(source) => self
                    .maker(&at, source, Place::Json, &GIVEN)
                    .map(|template| Given::Made(Box::new(template))),
                other => Some(Given::Fixed(other.clone())),
            };
            edit.set.extend(path.zip(given));
        }
        if let Some(source) = &spec.template {
            let at = at.then("template");
            edit.template = self.maker(&at, source, Place::Json, &GIVEN);
        }
        let values = edit.set.iter().filter_map(|(_, given)| match given {
            Given::Made(template) => Some(&**template),
            Given::Fixed(_) => None,
        });
        let makers: Vec<&Maker> = values.chain(&edit.template).collect();
        edit.looks_at_body = makers.iter().any(|maker| maker.uses("body"));
        if edit.looks_at_body {
            edit.values = defaults::TRANSFORM_LOOPED;
        }
        edit
    }
}

/// Whether a text is to be made from others.
fn is_made(source: &str) -> bool {
    source.contains("{{") || source.trim_start().starts_with(Maker::CEL)
}
