//! The document as an HTML page without scripts, rendered once.

use std::fmt::Write;

use serde_json::{Map, Value};

const STYLE: &str = "
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #1a1a1a; background: #fff }
h2 { margin-top: 3rem } h3 { margin-top: 2.5rem; border-top: 1px solid #ccc; padding-top: 1rem }
code, pre { font: 14px/1.4 ui-monospace, monospace; background: #f2f2f2 }
code { padding: 0 .2em } pre { padding: .8rem; overflow-x: auto }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .25rem .8rem .25rem 0 }
th { border-bottom: 1px solid #ccc } a { color: #0b57d0 }
@media (prefers-color-scheme: dark) { body { color: #e6e6e6; background: #151515 }
  code, pre { background: #262626 } a { color: #8ab4f8 } h3, th { border-color: #444 } }
";

/// In the order of the page.
const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

pub(super) fn render(document: &Value) -> String {
    let page = Page { document };
    let mut html = String::new();
    // Writing to a string cannot fail.
    let _ = page.write(&mut html);
    html
}

struct Page<'a> {
    document: &'a Value,
}

impl Page<'_> {
    fn write(&self, out: &mut String) -> std::fmt::Result {
        let info = &self.document["info"];
        let title = Text(text(&info["title"]));
        write!(
            out,
            "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}: the API</title>\n\
             <style>{STYLE}</style>\n<h1>{title}</h1>\n<p>{}</p>\n",
            Text(text(&info["summary"]))
        )?;
        for paragraph in text(&info["description"]).split("\n\n") {
            writeln!(out, "<p>{}</p>", Text(paragraph))?;
        }
        writeln!(
            out,
            "<p>For programs: <a href=\"openapi.json\"><code>/openapi.json</code></a></p>"
        )?;
        self.contents(out)?;
        for tag in array(&self.document["tags"]) {
            let (name, about) = (text(&tag["name"]), text(&tag["description"]));
            writeln!(
                out,
                "<h2>{}</h2>\n<p>{}</p>",
                Text(&capital(name)),
                Text(about)
            )?;
            for call in self.calls().filter(|call| call.is_of(name)) {
                self.call(out, &call)?;
            }
        }
        writeln!(out, "<h2>Schemas</h2>")?;
        for (name, schema) in object(&self.document["components"]["schemas"]) {
            writeln!(
                out,
                "<h3 id=\"schema-{0}\">{0}</h3>\n<pre>{1}</pre>",
                Text(name),
                Verbatim(&pretty(schema))
            )?;
        }
        Ok(())
    }

    fn contents(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "<table>")?;
        for Call {
            path,
            method,
            operation,
            ..
        } in self.calls()
        {
            writeln!(
                out,
                "<tr><td><a href=\"#{}\"><code>{} {}</code></a></td><td>{}</td></tr>",
                Text(text(&operation["operationId"])),
                method.to_uppercase(),
                Text(path),
                Text(text(&operation["summary"]))
            )?;
        }
        writeln!(out, "</table>")
    }

    fn call(&self, out: &mut String, call: &Call<'_>) -> std::fmt::Result {
        let operation = call.operation;
        writeln!(
            out,
            "<h3 id=\"{}\"><code>{} {}</code> {}</h3>",
            Text(text(&operation["operationId"])),
            call.method.to_uppercase(),
            Text(call.path),
            Text(text(&operation["summary"]))
        )?;
        if let Some(about) = operation["description"].as_str() {
            writeln!(out, "<p>{}</p>", Text(about))?;
        }
        let parameters = array(&call.item["parameters"]).chain(array(&operation["parameters"]));
        let mut parameters = parameters.map(|found| self.resolve(found)).peekable();
        if parameters.peek().is_some() {
            writeln!(out, "<table><tr><th>parameter<th>in<th>what<th>schema</tr>")?;
        }
        let mut any = false;
        for parameter in parameters {
            any = true;
            writeln!(
                out,
                "<tr><td><code>{}</code><td>{}<td>{}<td>{}</tr>",
                Text(text(&parameter["name"])),
                Text(text(&parameter["in"])),
                Text(text(&parameter["description"])),
                Schema(&parameter["schema"])
            )?;
        }
        if any {
            writeln!(out, "</table>")?;
        }
        for (media, content) in object(&operation["requestBody"]["content"]) {
            writeln!(
                out,
                "<p>Body: <code>{}</code>, {}</p>",
                Text(media),
                Schema(&content["schema"])
            )?;
            if let Some(example) = content.get("example") {
                writeln!(out, "<pre>{}</pre>", Verbatim(&pretty(example)))?;
            }
        }
        writeln!(out, "<table><tr><th>answer<th>what<th>headers<th>body</tr>")?;
        for (status, answer) in object(&operation["responses"]) {
            let answer = self.resolve(answer);
            write!(
                out,
                "<tr><td>{}<td>{}<td>",
                Text(status),
                Text(text(&answer["description"]))
            )?;
            for (name, _) in object(&answer["headers"]) {
                write!(out, "<code>{}</code> ", Text(name))?;
            }
            write!(out, "<td>")?;
            for (_, content) in object(&answer["content"]) {
                write!(out, "{}", Schema(&content["schema"]))?;
            }
            writeln!(out, "</tr>")?;
        }
        writeln!(out, "</table>")
    }

    fn calls(&self) -> impl Iterator<Item = Call<'_>> {
        object(&self.document["paths"]).flat_map(|(path, item)| {
            METHODS.into_iter().filter_map(move |method| {
                Some(Call {
                    path,
                    method,
                    item,
                    operation: item.get(method)?,
                })
            })
        })
    }

    /// Follows a reference within the document.
    fn resolve<'b>(&'b self, value: &'b Value) -> &'b Value {
        value["$ref"]
            .as_str()
            .and_then(|path| self.document.pointer(path.strip_prefix('#')?))
            .unwrap_or(value)
    }
}

/// One method of one path.
struct Call<'a> {
    path: &'a str,
    method: &'static str,
    item: &'a Value,
    operation: &'a Value,
}

impl Call<'_> {
    fn is_of(&self, tag: &str) -> bool {
        array(&self.operation["tags"]).any(|named| named == tag)
    }
}

/// Text in which words between backticks become code.
struct Text<'a>(&'a str);

impl std::fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, part) in self.0.split('`').enumerate() {
            if at % 2 == 0 {
                write!(f, "{}", Verbatim(part))?;
            } else {
                write!(f, "<code>{}</code>", Verbatim(part))?;
            }
        }
        Ok(())
    }
}

/// Text without markup.
struct Verbatim<'a>(&'a str);

impl std::fmt::Display for Verbatim<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for character in self.0.chars() {
            match character {
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '&' => f.write_str("&amp;")?,
                '"' => f.write_str("&quot;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

/// A schema in one line: its name, if it has one.
struct Schema<'a>(&'a Value);

impl std::fmt::Display for Schema<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0["$ref"]
            .as_str()
            .and_then(|path| path.rsplit_once('/'))
        {
            Some((_, name)) => write!(f, "<a href=\"#schema-{0}\">{0}</a>", Text(name)),
            None if self.0.is_null() => Ok(()),
            None => write!(f, "<code>{}</code>", Verbatim(&self.0.to_string())),
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn object(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

fn capital(name: &str) -> String {
    let mut characters = name.chars();
    characters
        .next()
        .map(|first| first.to_ascii_uppercase().to_string() + characters.as_str())
        .unwrap_or_default()
}
