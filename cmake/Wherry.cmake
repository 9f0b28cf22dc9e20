# What every target of the project shares, and the two functions that rooms and apps are declared with.

option(WHERRY_WERROR "warnings are errors (CI)" OFF)
option(WHERRY_FUZZ "build fuzz targets with libFuzzer" OFF)
set(WHERRY_SANITIZE "" CACHE STRING "sanitizers, as for -fsanitize=")

find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
find_package(GTest REQUIRED)

# Boost: headers, and its compiled parts statically, so that no binary drags shared Boost libraries in.
set(WHERRY_BOOST_LIBRARY_DIR /usr/lib/${CMAKE_LIBRARY_ARCHITECTURE})

add_library(wherry_options INTERFACE)
# In a batch of files (below) a local name may be another file's constant: the builds without batches look for shadows.
target_compile_options(wherry_options INTERFACE
  -Wall -Wextra -Wpedantic $<$<NOT:$<BOOL:$<TARGET_PROPERTY:UNITY_BUILD>>>:-Wshadow> -Wconversion -Wold-style-cast -Woverloaded-virtual
  -Wno-gnu-statement-expression-from-macro-expansion -Wno-gnu-statement-expression -Wno-missing-field-initializers -Wno-c99-designator -Wno-vla-cxx-extension
  -Wno-gnu-zero-variadic-macro-arguments
  -fno-omit-frame-pointer -ffile-prefix-map=${CMAKE_SOURCE_DIR}/=)
if(WHERRY_WERROR)
  target_compile_options(wherry_options INTERFACE -Werror)
endif()
target_compile_definitions(wherry_options INTERFACE _GNU_SOURCE
  $<$<CONFIG:Debug>:_GLIBCXX_ASSERTIONS> WHERRY_VERSION="${PROJECT_VERSION}"
  BOOST_ALL_NO_LIB BOOST_ASIO_NO_DEPRECATED BOOST_ASIO_SEPARATE_COMPILATION BOOST_BEAST_SEPARATE_COMPILATION
  BOOST_ASIO_DISABLE_BOOST_REGEX)
target_include_directories(wherry_options INTERFACE ${CMAKE_SOURCE_DIR}/src)
target_link_libraries(wherry_options INTERFACE Threads::Threads)
target_link_options(wherry_options INTERFACE -fuse-ld=lld -Wl,--as-needed -Wl,--gc-sections)
# Sections of their own let the linker drop what a small binary does not use.
target_compile_options(wherry_options INTERFACE -ffunction-sections -fdata-sections)
if(WHERRY_SANITIZE)
  target_compile_options(wherry_options INTERFACE -fsanitize=${WHERRY_SANITIZE} -fno-sanitize-recover=all -O1)
  target_link_options(wherry_options INTERFACE -fsanitize=${WHERRY_SANITIZE})
endif()
if(WHERRY_FUZZ)
  target_compile_options(wherry_options INTERFACE -fsanitize=fuzzer-no-link)
endif()
set(CMAKE_CXX_FLAGS_DEBUG "-O0 -g1" CACHE STRING "" FORCE)
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -g1 -DNDEBUG" CACHE STRING "" FORCE)

# Headers that nearly every file reads, compiled once: in the release build only, so that the other builds (dev, asan)
# still show a file that forgot one of its includes. Two sets: rooms that live on Asio's loop take it along.
option(WHERRY_PRECOMPILED_HEADERS "precompile the common headers (release builds)" ON)
if(WHERRY_PRECOMPILED_HEADERS AND CMAKE_BUILD_TYPE STREQUAL "Release" AND NOT WHERRY_SANITIZE AND NOT WHERRY_FUZZ)
  set(WHERRY_PRECOMPILE ON)
  set(plain_headers <algorithm> <array> <atomic> <charconv> <chrono> <cstdint> <cstring> <deque> <filesystem> <functional> <map>
    <memory> <mutex> <optional> <set> <span> <string> <string_view> <thread> <unordered_map> <utility> <variant> <vector>
    <fmt/format.h> <fcntl.h> <sys/socket.h> <sys/stat.h> <unistd.h>)
  set(asio_headers <boost/asio/any_io_executor.hpp> <boost/asio/as_tuple.hpp> <boost/asio/awaitable.hpp> <boost/asio/co_spawn.hpp>
    <boost/asio/detached.hpp> <boost/asio/dispatch.hpp> <boost/asio/local/stream_protocol.hpp> <boost/asio/posix/stream_descriptor.hpp>
    <boost/asio/post.hpp> <boost/asio/steady_timer.hpp> <boost/asio/this_coro.hpp> <boost/asio/thread_pool.hpp>
    <boost/asio/use_awaitable.hpp> <boost/asio/write.hpp> <boost/json.hpp>)
  foreach(set plain asio)
    file(GENERATE OUTPUT ${CMAKE_BINARY_DIR}/precompiled_${set}.cpp CONTENT "\n")
    add_library(wherry_precompiled_${set} OBJECT ${CMAKE_BINARY_DIR}/precompiled_${set}.cpp)
    target_link_libraries(wherry_precompiled_${set} PRIVATE wherry_options)
  endforeach()
  target_compile_options(wherry_options INTERFACE "SHELL:-Xclang -fno-pch-timestamp")
  target_precompile_headers(wherry_precompiled_plain PRIVATE ${plain_headers})
  target_precompile_headers(wherry_precompiled_asio PRIVATE ${plain_headers} ${asio_headers})
endif()

# Small files that share most of what they include are compiled several at a time: two thirds of the time of one at a
# time. In the release build only: elsewhere a change is compiled by itself, and a file has to include what it uses.
option(WHERRY_UNITY "compile the files of a room in batches (release builds)" ON)
set(WHERRY_BATCH 8)

function(wherry_batches target)
  if(WHERRY_UNITY AND CMAKE_BUILD_TYPE STREQUAL "Release" AND NOT WHERRY_SANITIZE AND NOT WHERRY_FUZZ)
    set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE ${WHERRY_BATCH})
  endif()
endfunction()

function(wherry_precompile target set)
  if(WHERRY_PRECOMPILE)
    target_precompile_headers(${target} REUSE_FROM wherry_precompiled_${set})
  endif()
endfunction()

# Test programs are no part of the default build: the target `tests` builds them all.
add_custom_target(tests)
function(wherry_test_program name)
  set_target_properties(${name} PROPERTIES EXCLUDE_FROM_ALL ON)
  add_dependencies(tests ${name})
endfunction()

# wherry_room(<name> [ASIO] [DEPENDS room...] [LIBRARIES lib...] [EXCLUDE file...])
#   ASIO: most of its files live on Asio's loop (which common headers are precompiled).
#   A static library wherry_<name> of this folder's *.cpp, and beside it:
#   - (in the target `tests`) <name>_test from *_test.cpp (one executable, registered with ctest),
#   - one executable per *_fuzz.cpp: a libFuzzer target in the fuzz preset, otherwise a
#     program that replays the folder corpus/<concept>/ and is registered with ctest.
function(wherry_room name)
  cmake_parse_arguments(ROOM "ASIO" "" "DEPENDS;LIBRARIES;EXCLUDE;TEST_LIBRARIES" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cpp)
  file(GLOB nested CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*/*.cpp ${CMAKE_CURRENT_SOURCE_DIR}/*/*/*.cpp)
  # Subfolders with a CMakeLists.txt are rooms of their own.
  foreach(file ${nested})
    cmake_path(GET file PARENT_PATH directory)
    cmake_path(GET directory PARENT_PATH above)
    if(NOT EXISTS ${directory}/CMakeLists.txt AND (above STREQUAL CMAKE_CURRENT_SOURCE_DIR OR NOT EXISTS ${above}/CMakeLists.txt))
      list(APPEND sources ${file})
    endif()
  endforeach()
  set(tests ${sources})
  set(fuzzers ${sources})
  list(FILTER tests INCLUDE REGEX "_test\\.cpp$")
  list(FILTER fuzzers INCLUDE REGEX "_fuzz\\.cpp$")
  list(FILTER sources EXCLUDE REGEX "_(test|fuzz)\\.cpp$")
  foreach(file ${ROOM_EXCLUDE})
    list(FILTER sources EXCLUDE REGEX "/${file}$")
  endforeach()
  set(target wherry_${name})
  if(sources)
    add_library(${target} STATIC ${sources})
    set(scope PUBLIC)
  else()
    add_library(${target} INTERFACE)
    set(scope INTERFACE)
  endif()
  target_link_libraries(${target} ${scope} wherry_options)
  foreach(dependency ${ROOM_DEPENDS})
    target_link_libraries(${target} ${scope} wherry_${dependency})
  endforeach()
  target_link_libraries(${target} ${scope} ${ROOM_LIBRARIES})
  set(headers plain)
  if(ROOM_ASIO)
    set(headers asio)
  endif()
  if(sources)
    wherry_precompile(${target} ${headers})
    wherry_batches(${target})
  endif()
  if(tests AND NOT WHERRY_FUZZ)
    add_executable(${name}_test ${tests})
    target_link_libraries(${name}_test PRIVATE ${target} ${ROOM_TEST_LIBRARIES} GTest::gmock GTest::gtest_main)
    wherry_precompile(${name}_test ${headers})
    wherry_test_program(${name}_test)
    add_test(NAME ${name} COMMAND ${name}_test)
  endif()
  foreach(file ${fuzzers})
    cmake_path(GET file STEM stem)
    cmake_path(GET file PARENT_PATH directory)
    string(REGEX REPLACE "_fuzz$" "" concept ${stem})
    add_executable(${name}_${stem} ${file})
    target_link_libraries(${name}_${stem} PRIVATE ${target})
    wherry_test_program(${name}_${stem})
    if(WHERRY_FUZZ)
      target_link_options(${name}_${stem} PRIVATE -fsanitize=fuzzer)
    else()
      target_sources(${name}_${stem} PRIVATE ${CMAKE_SOURCE_DIR}/src/base/corpus_replay.cc)
      add_test(NAME ${name}_${concept}_corpus COMMAND ${name}_${stem} ${directory}/corpus/${concept})
    endif()
  endforeach()
endfunction()

# Release builds of the trusted base are small as they are built: what only a debugger wants lies beside the binary, in
# .debug/, where debuggers look for it.
function(wherry_split_debug name)
  if(CMAKE_BUILD_TYPE STREQUAL "Release" AND CMAKE_OBJCOPY)
    add_custom_command(TARGET ${name} POST_BUILD
      COMMAND ${CMAKE_COMMAND} -E make_directory $<TARGET_FILE_DIR:${name}>/.debug
      COMMAND ${CMAKE_OBJCOPY} --only-keep-debug $<TARGET_FILE:${name}> $<TARGET_FILE_DIR:${name}>/.debug/${name}.debug
      COMMAND ${CMAKE_OBJCOPY} --strip-all --add-gnu-debuglink=$<TARGET_FILE_DIR:${name}>/.debug/${name}.debug $<TARGET_FILE:${name}>
      VERBATIM)
  endif()
endfunction()

# wherry_app(<binary> [STATIC] DEPENDS room...): apps/<binary>/*.cpp as an installed binary.
# STATIC binaries are the trusted base: no shared library, nothing to load inside a container.
function(wherry_app name)
  cmake_parse_arguments(APP "STATIC" "DESTINATION" "DEPENDS;LIBRARIES" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cpp)
  add_executable(${name} ${sources})
  target_link_libraries(${name} PRIVATE wherry_options)
  foreach(dependency ${APP_DEPENDS})
    target_link_libraries(${name} PRIVATE wherry_${dependency})
  endforeach()
  target_link_libraries(${name} PRIVATE ${APP_LIBRARIES})
  if(NOT WHERRY_SANITIZE)
    if(APP_STATIC)
      # Functions with the same code, of which templates make many, are kept once where nobody compares their addresses.
      target_link_options(${name} PRIVATE -static -Wl,--icf=safe)
      wherry_split_debug(${name})
    else()
      target_link_options(${name} PRIVATE -static-libstdc++ -static-libgcc)
    endif()
  endif()
  if(NOT APP_DESTINATION)
    set(APP_DESTINATION bin)
  endif()
  install(TARGETS ${name} RUNTIME DESTINATION ${APP_DESTINATION})
endfunction()
