//! Mutants written into a file, each behind a switch.

use crate::{Mutant, Place};
use anyhow::Result;
use proc_macro2::LineColumn;
use std::collections::BTreeMap;
use std::ops::Range;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// A file with its mutants.
pub struct Spliced {
    pub text: String,
    /// Mutants that can't be written so.
    pub left_out: Vec<usize>,
    /// Where each stands in `text`.
    places: Vec<(Range<usize>, usize)>,
}

impl Spliced {
    /// The mutant that an error at this byte belongs to: the innermost there.
    pub fn mutant_at(&self, at: usize) -> Option<usize> {
        let holding = self.places.iter().filter(|(range, _)| range.contains(&at));
        holding
            .min_by_key(|(range, _)| range.len())
            .map(|(_, mutant)| *mutant)
    }
}

/// What is done at a range of the source.
enum Edit {
    /// The text is written before what stands there.
    Insert(Vec<(String, Option<usize>)>),
    /// Each mutant with the text that it puts there.
    Choose(Vec<(usize, String)>),
}

struct Finder<'a> {
    source: &'a str,
    lines: Vec<usize>,
    /// Mutants that are waiting for their expression, by where their span begins.
    waiting: BTreeMap<(usize, &'static str), Vec<(usize, &'a Mutant)>>,
    edits: Vec<(Range<usize>, Edit)>,
}

/// All of these mutants in one text.
pub fn splice(source: &str, mutants: &[(usize, &Mutant)]) -> Result<Spliced> {
    let syntax = syn::parse_file(source)?;
    let lines = std::iter::once(0)
        .chain(source.match_indices('\n').map(|(at, _)| at + 1))
        .collect();
    let mut finder = Finder {
        source,
        lines,
        waiting: BTreeMap::new(),
        edits: Vec::new(),
    };
    for &(number, mutant) in mutants {
        let at = finder.offset(mutant.span.start);
        let genre = match mutant.genre.as_str() {
            // The function would return two types under one name.
            "FnValue"
                if mutant
                    .function
                    .as_ref()
                    .is_some_and(|f| f.return_type.starts_with("-> impl ")) =>
            {
                "other"
            }
            "FnValue" => {
                let text = format!(
                    "if crate::mutants::on({number}) {{ return {}; }} ",
                    mutant.replacement
                );
                finder
                    .edits
                    .push((at..at, Edit::Insert(vec![(text, Some(number))])));
                continue;
            }
            "BinaryOperator" => "binary",
            "UnaryOperator" => "unary",
            "MatchArm" => "arm",
            "MatchArmGuard" => "guard",
            "StructField" => "field",
            _ => "other",
        };
        finder
            .waiting
            .entry((at, genre))
            .or_default()
            .push((number, mutant));
    }
    finder.visit_file(&syntax);
    let left_out = finder
        .waiting
        .values()
        .flatten()
        .map(|(number, _)| *number)
        .collect();
    // Outer before inner, and what is only inserted before what is replaced at the same place.
    finder.edits.sort_by_key(|(range, edit)| {
        (
            range.start,
            range.start != range.end,
            std::cmp::Reverse(range.end),
            matches!(edit, Edit::Insert(_)),
        )
    });
    let mut spliced = Spliced {
        text: String::new(),
        left_out,
        places: Vec::new(),
    };
    render(source, 0..source.len(), &finder.edits, &mut spliced);
    Ok(spliced)
}

/// Writes a range of the source, and the edits in it, which are in order and inside of each other or apart.
fn render(source: &str, range: Range<usize>, mut edits: &[(Range<usize>, Edit)], out: &mut Spliced) {
    let mut at = range.start;
    while let Some(((place, edit), rest)) = edits.split_first() {
        out.text.push_str(&source[at..place.start]);
        at = place.end;
        let inner = rest
            .iter()
            .take_while(|(inner, _)| inner.start < place.end)
            .count();
        match edit {
            Edit::Insert(texts) => {
                for (text, number) in texts {
                    let begin = out.text.len();
                    out.text.push_str(text);
                    out.places
                        .extend(number.map(|number| (begin..out.text.len(), number)));
                }
            }
            Edit::Choose(choices) => {
                out.text.push('(');
                for (number, text) in choices {
                    let begin = out.text.len();
                    out.text
                        .push_str(&format!("if crate::mutants::on({number}) {{ {text} }} else "));
                    out.places.push((begin..out.text.len(), *number));
                }
                out.text.push_str("{ ");
                render(source, place.clone(), &rest[..inner], out);
                out.text.push_str(" })");
            }
        }
        edits = match edit {
            Edit::Insert(_) => rest,
            Edit::Choose(_) => &rest[inner..],
        };
    }
    out.text.push_str(&source[at..range.end]);
}

impl<'a> Finder<'a> {
    fn offset(&self, place: Place) -> usize {
        let line = self.lines[place.line - 1];
        let rest = &self.source[line..];
        line + rest
            .char_indices()
            .nth(place.column - 1)
            .map_or(rest.len(), |(at, _)| at)
    }

    fn range(&self, spanned: &impl Spanned) -> Range<usize> {
        let span = spanned.span();
        let offset = |at: LineColumn| {
            self.offset(Place {
                line: at.line,
                column: at.column + 1,
            })
        };
        offset(span.start())..offset(span.end())
    }

    fn text(&self, spanned: &impl Spanned) -> &'a str {
        &self.source[self.range(spanned)]
    }

    fn take(&mut self, at: usize, genre: &'static str) -> Vec<(usize, &'a Mutant)> {
        self.waiting.remove(&(at, genre)).unwrap_or_default()
    }
}

/// Whether the expression binds names for what comes after it in the same condition.
fn binds(expression: &syn::Expr) -> bool {
    match expression {
        syn::Expr::Let(_) => true,
        syn::Expr::Binary(binary) => binds(&binary.left) || binds(&binary.right),
        _ => false,
    }
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_expr_binary(&mut self, node: &'ast syn::ExprBinary) {
        if !binds(&node.left) && !binds(&node.right) {
            let at = self.range(&node.op).start;
            let choices: Vec<_> = self
                .take(at, "binary")
                .into_iter()
                .map(|(number, mutant)| {
                    let (left, right) = (self.text(&node.left), self.text(&node.right));
                    // A place that is assigned to must not be a copy of itself.
                    let left = if mutant.replacement.ends_with('=')
                        && mutant.replacement.len() > 1
                        && !matches!(mutant.replacement.as_str(), "==" | "!=" | "<=" | ">=")
                    {
                        left.to_owned()
                    } else {
                        format!("({left})")
                    };
                    (number, format!("{left} {} ({right})", mutant.replacement))
                })
                .collect();
            if !choices.is_empty() {
                let range = self.range(node);
                self.edits.push((range, Edit::Choose(choices)));
            }
        }
        visit::visit_expr_binary(self, node);
    }

    fn visit_expr_unary(&mut self, node: &'ast syn::ExprUnary) {
        let range = self.range(node);
        let choices: Vec<_> = self
            .take(range.start, "unary")
            .into_iter()
            .map(|(number, _)| (number, self.text(&node.expr).to_owned()))
            .collect();
        if !choices.is_empty() {
            self.edits.push((range, Edit::Choose(choices)));
        }
        visit::visit_expr_unary(self, node);
    }

    fn visit_arm(&mut self, node: &'ast syn::Arm) {
        let at = self.range(node).start;
        let removed = self.take(at, "arm");
        for (number, _) in &removed {
            match &node.guard {
                None => {
                    let end = self.range(&node.pat).end;
                    let text = format!(" if !crate::mutants::on({number})");
                    self.edits
                        .push((end..end, Edit::Insert(vec![(text, Some(*number))])));
                }
                Some((_, guard)) => {
                    let guard = self.range(guard);
                    let text = format!("!crate::mutants::on({number}) && (");
                    self.edits.push((
                        guard.start..guard.start,
                        Edit::Insert(vec![(text, Some(*number))]),
                    ));
                    self.edits
                        .push((guard.end..guard.end, Edit::Insert(vec![(")".into(), None)])));
                }
            }
        }
        if let Some((_, guard)) = &node.guard
            && !binds(guard)
        {
            let range = self.range(guard);
            let choices: Vec<_> = self
                .take(range.start, "guard")
                .into_iter()
                .map(|(number, mutant)| (number, mutant.replacement.clone()))
                .collect();
            if !choices.is_empty() {
                self.edits.push((range, Edit::Choose(choices)));
            }
        }
        visit::visit_arm(self, node);
    }

    fn visit_expr_struct(&mut self, node: &'ast syn::ExprStruct) {
        if let Some(rest) = &node.rest {
            let rest = self.text(rest);
            for field in &node.fields {
                let at = self.range(field).start;
                let name = self.text(&field.member);
                let choices: Vec<_> = self
                    .take(at, "field")
                    .into_iter()
                    .map(|(number, _)| (number, format!("({rest}).{name}")))
                    .collect();
                if !choices.is_empty() {
                    let range = self.range(&field.expr);
                    self.edits.push((range, Edit::Choose(choices)));
                }
            }
        }
        visit::visit_expr_struct(self, node);
    }
}
