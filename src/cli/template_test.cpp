#include "cli/template.hpp"

#include <gtest/gtest.h>

#include "base/json.hpp"

namespace wherry::cli {
namespace {

const char* const document = R"({"Name":"web","State":{"Status":"running","Pid":42,"Running":true,"Health":null},
"Args":["a","b","c"],"Config":{"Labels":{"com.x":"1","b":"2"},"Cmd":null,"Volumes":null,"Memory":1073741824,"Ratio":0.5},
"Ports":{"80/tcp":[{"HostIp":"0.0.0.0","HostPort":"8080"}],"81/tcp":null},"Mounts":[]})";

// The text, or the error between exclamation marks.
std::string apply(std::string_view shape) {
    auto parsed = Template::parse(shape);
    if (!parsed) return "!" + parsed.error().describe() + "!";
    auto text = parsed->execute(*parse_json(document));
    return text ? *text : "!" + text.error().describe() + "!";
}

TEST(templates, fields_and_values) {
    EXPECT_EQ(apply("{{.Name}} {{.State.Pid}} {{ .State.Running }}"), "web 42 true");
    EXPECT_EQ(apply("{{.Args}} {{.Config.Labels}} {{.Config.Ratio}}"), "[a b c] map[b:2 com.x:1] 0.5");
    EXPECT_EQ(apply("{{.Config.Cmd}} {{.Config.Volumes}} {{.State.Health}}"), "[] map[] <no value>");
    EXPECT_EQ(apply("{{json .State}} {{json .Args}} {{.State | json}}"),
              "{\"Status\":\"running\",\"Pid\":42,\"Running\":true,\"Health\":null} [\"a\",\"b\",\"c\"] "
              "{\"Status\":\"running\",\"Pid\":42,\"Running\":true,\"Health\":null}");
    EXPECT_EQ(apply("{{\"a\\tb\"}}{{`raw\\n`}}{{'x'}}{{3.5}}"), "a\tbraw\\n1203.5");
    EXPECT_EQ(apply("plain"), "plain");
    EXPECT_EQ(apply("{{/* nothing */}}x"), "x");
}

TEST(templates, what_is_not_there) {
    EXPECT_EQ(apply("{{.Nope}}"),
              "!template parsing error: template: :1:2: executing \"\" at <.Nope>: map has no entry for key \"Nope\"!");
    EXPECT_EQ(apply("{{if .Nope}}a{{else}}b{{end}}{{with .State.Health}}c{{end}}{{if .Nope.Deeper}}d{{end}}").find('b'),
              std::string::npos);
    EXPECT_EQ(apply("{{if .Nope}}a{{else}}b{{end}}{{with .State.Health}}c{{end}}"), "b");
    EXPECT_EQ(apply("{{if and .State.Health .State.Health.Status}}a{{else}}b{{end}}"), "b");
    EXPECT_EQ(apply("{{index .Config.Labels \"none\"}}|"), "|");
}

TEST(templates, control) {
    EXPECT_EQ(apply("{{range .Args}}<{{.}}>{{end}}"), "<a><b><c>");
    EXPECT_EQ(apply("{{range $i, $x := .Args}}{{$i}}={{$x}};{{end}}"), "0=a;1=b;2=c;");
    EXPECT_EQ(apply("{{range $k, $v := .Config.Labels}}{{$k}}:{{$v}} {{end}}"), "b:2 com.x:1 ");
    EXPECT_EQ(apply("{{range .Mounts}}x{{else}}none{{end}}"), "none");
    EXPECT_EQ(apply("{{range .Args}}{{if eq . \"b\"}}{{continue}}{{end}}{{.}}{{end}}"), "ac");
    EXPECT_EQ(apply("{{range .Args}}{{if eq . \"b\"}}{{break}}{{end}}{{.}}{{end}}"), "a");
    EXPECT_EQ(apply("{{if eq .Name \"x\"}}1{{else if eq .Name \"web\"}}2{{else}}3{{end}}"), "2");
    EXPECT_EQ(apply("{{with .State}}{{.Status}} {{$.Name}}{{end}}"), "running web");
    EXPECT_EQ(apply("{{$x := 1}}{{range .Args}}{{$x = .}}{{end}}{{$x}}"), "c");
    EXPECT_EQ(apply("a {{- .Name -}} b"), "awebb");
    EXPECT_EQ(apply("{{range $p, $c := .Ports}}{{$p}}->{{range $c}}{{.HostPort}}{{end}} {{end}}"),
              "80/tcp->8080 81/tcp-> ");
    EXPECT_EQ(apply("{{(index (index .Ports \"80/tcp\") 0).HostPort}}"), "8080");
}

TEST(templates, functions) {
    EXPECT_EQ(
        apply("{{join .Args \",\"}} {{upper .Name}} {{title .Name}} {{lower \"ABC\"}} {{len .Args}} {{len .Name}}"),
        "a,b,c WEB Web abc 3 3");
    EXPECT_EQ(apply("{{range split \"a:b\" \":\"}}[{{.}}]{{end}}{{truncate .Name 2}}{{pad .Name 1 2}}|"),
              "[a][b]we web  |");
    EXPECT_EQ(apply("{{printf \"%5s|%-5s|%d|%q|%v|%.2f|%x|%%\" .Name .Name .State.Pid .Name .Args .Config.Ratio 255}}"),
              "  web|web  |42|\"web\"|[a b c]|0.50|ff|%");
    EXPECT_EQ(apply("{{println .Name 1}}"), "web 1\n");
    EXPECT_EQ(apply("{{print 1 2 \"x\"}}"), "1 2x");
    EXPECT_EQ(apply("{{not true}} {{and 1 0}} {{or 0 \"x\"}} {{lt 1 2}} {{ge 2 2}} {{ne 1 2}} {{eq 3 1 2 3}}"),
              "false 0 x true true true true");
    EXPECT_EQ(apply("{{slice .Name 1}} {{slice .Args 0 2}}"), "eb [a b]");
    EXPECT_EQ(apply("{{.Name | upper | printf \"<%s>\"}}"), "<WEB>");
    EXPECT_EQ(apply("{{index .Args 1}}"), "b");
}

TEST(templates, errors_are_clear) {
    for (const char* bad : {"{{", "{{.Name", "{{if .Name}}", "{{end}}", "{{else}}", "{{range}}x{{end}}", "{{\"abc}}",
                            "{{1x}}", "{{(.Name}}", "{{.Name | }}", "{{$nope}}", "{{nope .Name}}", "{{index .Args 9}}",
                            "{{eq 1 \"x\"}}", "{{.Name.Deeper}}", "{{json}}", "{{/* x"})
        EXPECT_TRUE(apply(bad).starts_with("!template")) << bad << " -> " << apply(bad);
    for (const char* unsupported :
         {"{{define \"x\"}}{{end}}", "{{template \"x\"}}", "{{block \"x\" .}}{{end}}", "{{html .Name}}"})
        EXPECT_NE(apply(unsupported).find("not supported"), std::string::npos) << unsupported;
    std::string deep;
    for (int i = 0; i < 5000; ++i) deep += "{{if 1}}";
    EXPECT_TRUE(apply(deep).starts_with("!"));
    EXPECT_TRUE(apply("{{" + std::string(5000, '(') + "1").starts_with("!"));
}

TEST(templates, indented_json_is_dockers) {
    EXPECT_EQ(indented_json(*parse_json(R"([{"a":1,"b":[],"c":{},"d":["<x>"]}])"), 4),
              "[\n    {\n        \"a\": 1,\n        \"b\": [],\n        \"c\": {},\n        \"d\": [\n            "
              "\"<x>\"\n        ]\n    }\n]");
    EXPECT_EQ(go_json(*parse_json(R"("<a&b>\u0001")"), HtmlEscape::yes), "\"\\u003ca\\u0026b\\u003e\\u0001\"");
}

}  // namespace
}  // namespace wherry::cli
