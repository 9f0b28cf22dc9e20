// Asio's implementation, compiled once (BOOST_ASIO_SEPARATE_COMPILATION). Linked only where Asio is used.
#include <boost/asio/impl/src.hpp>
