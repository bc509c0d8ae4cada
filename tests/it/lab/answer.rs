//! Answers of the query protocol: read, mended element by element, and made.

use axum::http::{HeaderMap, StatusCode, header::CONTENT_TYPE};
use hyper::body::Bytes;
use xmltree::{Element, XMLNode};

const NAMESPACE: &str = "http://rds.amazonaws.com/doc/2014-10-31/";

/// An answer of moto's, or one in its place.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// An error as Amazon words it.
    pub(super) fn refusal(status: u16, code: &str, message: &str) -> Self {
        let mut error = Element::new("Error");
        set(&mut error, "Type", "Sender");
        set(&mut error, "Code", code);
        set(&mut error, "Message", message);
        let mut root = Element::new("ErrorResponse");
        root.attributes.insert("xmlns".into(), NAMESPACE.to_owned());
        root.children.push(XMLNode::Element(error));
        set(&mut root, "RequestId", "0f0f0f0f-lab");
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, "text/xml".parse().unwrap())]);
        Self { status: StatusCode::from_u16(status).unwrap(), headers, body: text(&root) }
    }

    pub(super) fn is_success(&self) -> bool {
        self.status.is_success()
    }

    /// None where it is no XML.
    pub(super) fn document(&self) -> Option<Element> {
        Element::parse(self.body.as_ref()).ok()
    }

    pub(super) fn set_document(&mut self, root: &Element) {
        self.body = text(root);
    }

    /// The code of an error, else empty.
    pub(super) fn code(&self) -> String {
        let code = |root: &Element| Some(root.get_child("Error")?.get_child("Code")?.get_text()?.into_owned());
        if self.is_success() { String::new() } else { self.document().as_ref().and_then(code).unwrap_or_default() }
    }

    /// The first element of this name, wherever it is.
    pub(super) fn element(&self, name: &str) -> Option<Element> {
        self.elements(name).into_iter().next()
    }

    pub(super) fn elements(&self, name: &str) -> Vec<Element> {
        let mut found = Vec::new();
        if let Some(mut root) = self.document() {
            each(&mut root, &mut |element| {
                if element.name == name && element.children.iter().any(|child| child.as_element().is_some()) {
                    found.push(element.clone());
                }
            });
        }
        found
    }

    /// As the answer to this action, with one element as its result.
    pub(super) fn result_of(mut self, action: &str, element: Element) -> Self {
        let mut result = Element::new(&format!("{action}Result"));
        result.children.push(XMLNode::Element(element));
        let mut root = Element::new(&format!("{action}Response"));
        root.attributes.insert("xmlns".into(), NAMESPACE.to_owned());
        root.children.push(XMLNode::Element(result));
        let metadata = self.document().and_then(|mut old| old.take_child("ResponseMetadata"));
        root.children.extend(metadata.map(XMLNode::Element));
        self.set_document(&root);
        self
    }
}

fn text(root: &Element) -> Bytes {
    let mut bytes = Vec::new();
    root.write(&mut bytes).unwrap();
    bytes.into()
}

/// Visits an element and all within it, the outer ones first.
pub(super) fn each(element: &mut Element, visit: &mut impl FnMut(&mut Element)) {
    visit(element);
    for child in element.children.iter_mut().filter_map(XMLNode::as_mut_element) {
        each(child, visit);
    }
}

/// The text of a child; empty where there is none.
pub(super) fn get(element: &Element, child: &str) -> String {
    element.get_child(child).and_then(Element::get_text).unwrap_or_default().into_owned()
}

/// Gives a child this text, where there is none at the end.
pub(super) fn set(element: &mut Element, child: &str, text: &str) {
    let text = vec![XMLNode::Text(text.to_owned())];
    if let Some(child) = element.get_mut_child(child) {
        child.children = text;
    } else {
        let mut new = Element::new(child);
        new.children = text;
        element.children.push(XMLNode::Element(new));
    }
}

/// Gives a child these children and no others.
pub(super) fn set_all(element: &mut Element, child: &str, fields: &[(&str, &str)]) {
    let mut new = Element::new(child);
    for (name, text) in fields {
        set(&mut new, name, text);
    }
    remove(element, child);
    element.children.push(XMLNode::Element(new));
}

pub(super) fn remove(element: &mut Element, child: &str) {
    while element.take_child(child).is_some() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(body: &str) -> Answer {
        Answer { status: StatusCode::OK, headers: HeaderMap::new(), body: body.to_owned().into() }
    }

    const SHOWN: &str = "<DResponse xmlns=\"http://x/\"><DResult><DBInstances><DBInstance><Id>a&amp;b</Id><Port>1</Port>\
                         <Empty/></DBInstance></DBInstances></DResult><ResponseMetadata><RequestId>r</RequestId>\
                         </ResponseMetadata></DResponse>";

    #[test]
    fn elements_are_set_and_removed_and_the_rest_stays() {
        let mut answer = answer(SHOWN);
        let mut root = answer.document().unwrap();
        each(&mut root, &mut |element| {
            if element.name == "DBInstance" {
                set(element, "Port", "2");
                set(element, "New", "<3");
                remove(element, "Empty");
                set_all(element, "Window", &[("From", "x"), ("To", "y")]);
            }
        });
        answer.set_document(&root);
        let said = String::from_utf8(answer.body.to_vec()).unwrap();
        let body = said.split_once("?>").unwrap().1.trim();
        let expected = SHOWN
            .replace("<Port>1</Port>", "<Port>2</Port>")
            .replace("<Empty/>", "<New>&lt;3</New><Window><From>x</From><To>y</To></Window>");
        assert_eq!(body, expected);
        assert_eq!(get(&answer.element("DBInstance").unwrap(), "Id"), "a&b");
    }

    #[test]
    fn an_element_becomes_the_result_of_another_action() {
        let shown = answer(SHOWN);
        let element = shown.element("DBInstance").unwrap();
        let mut root = shown.result_of("DeleteDBInstance", element).document().unwrap();
        assert_eq!(root.name, "DeleteDBInstanceResponse");
        assert_eq!(get(root.get_child("ResponseMetadata").unwrap(), "RequestId"), "r");
        let result = root.take_child("DeleteDBInstanceResult").unwrap();
        assert_eq!(get(result.get_child("DBInstance").unwrap(), "Port"), "1");
    }

    #[test]
    fn a_refusal_has_its_code() {
        let refusal = Answer::refusal(400, "Throttling", "Rate exceeded");
        assert_eq!((refusal.code().as_str(), refusal.is_success()), ("Throttling", false));
        assert_eq!(answer("no document").code(), "");
    }
}
