// Any packet: reads everything in it, prints what has a shape, and writes it again.
#include <cstdlib>
#include <span>
#include <vector>

#include "dns/message.hpp"
#include "dns/rdata.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace wherry::dns;
    auto reader = MessageReader::open({data, size});
    if (!reader) return 0;
    std::vector<std::uint8_t> buffer(max_message_bytes);
    MessageWriter writer(buffer);
    if (!writer.write_header(reader->header())) std::abort();
    for (unsigned i = 0; i < reader->header().questions; ++i) {
        auto question = reader->read_question();
        if (!question) return 0;
        // What was read is a name again when printed and parsed.
        if (auto again = Name::parse(question->name.to_text()); !again || !(*again == question->name)) std::abort();
        if (!writer.write_question(*question)) return 0;
    }
    unsigned records = reader->header().answers + reader->header().authorities + reader->header().additionals;
    for (unsigned i = 0; i < records; ++i) {
        auto record = reader->read_record();
        if (!record) return 0;
        if (record->type == Type::OPT) {
            if (auto edns = parse_edns(*record)) (void)edns->option(EdnsOption::cookie);
            continue;
        }
        auto rdata = rdata_from_message(*reader, *record);
        if (!rdata) continue;
        if (!rdata_is_valid(record->type, *rdata)) std::abort();
        (void)rdata_to_text(record->type, *rdata);
        canonicalize_rdata(record->type, *rdata);
        if (!rdata_is_valid(record->type, *rdata)) std::abort();
        if (!writer.write_record(record->name, record->type, record->dns_class, record->ttl, *rdata)) return 0;
    }
    return 0;
}
