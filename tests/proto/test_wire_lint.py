"""The .proto files keep to the rules of buf's STANDARD category, checked on what protoc makes of them.

Each rule has buf's name. `buf lint` itself, which is not needed here, says the same of the project's files and of the
faulty ones below.
"""

import re
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
)
from grpc_tools import protoc

PROTO = Path(__file__).parents[2] / "proto" / "kinochrome_proto"
PASCAL, SNAKE, UPPER_SNAKE = r"([A-Z][a-z0-9]*)+", r"[a-z][a-z0-9]*(_[a-z0-9]+)*", r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*"
VERSION = r"v[1-9]\d*(test.*|(p[1-9]\d*)?(alpha|beta)[1-9]\d*)?"
SAME_IN_A_PACKAGE = (
    "csharp_namespace",
    "go_package",
    "java_multiple_files",
    "java_package",
    "php_namespace",
    "ruby_package",
    "swift_prefix",
)


def compiled(root: Path, target: Path) -> list[FileDescriptorProto]:
    files = sorted(str(file.relative_to(root)) for file in root.rglob("*.proto"))
    command = ["protoc", f"-I{root}", f"--descriptor_set_out={target}", "--include_source_info", *files]
    assert protoc.main(command) == 0
    return list(FileDescriptorSet.FromString(target.read_bytes()).file)


def faults(files: list[FileDescriptorProto], sources: Path) -> Iterator[str]:
    """Each place that breaks a rule, as "RULE name"."""
    yield from _of_packages(files)
    for file in files:
        yield from _of_file(file, (sources / file.name).read_text())
    used = Counter(kind for file in files for rpc in _rpcs(file) for kind in (rpc.input_type, rpc.output_type))
    yield from (f"RPC_REQUEST_RESPONSE_UNIQUE {kind}" for kind, times in used.items() if times > 1)


def _of_packages(files: list[FileDescriptorProto]) -> Iterator[str]:
    folders, packages = defaultdict(list), defaultdict(list)
    imports: dict[str, set[str]] = defaultdict(set)
    package_of = {file.name: file.package for file in files}
    for file in files:
        folders[str(Path(file.name).parent)].append(file)
        packages[file.package].append(file)
        imports[file.package] |= {package_of[name] for name in file.dependency if name in package_of} - {file.package}
    for folder, inside in folders.items():
        if len({file.package for file in inside}) > 1:
            yield f"DIRECTORY_SAME_PACKAGE {folder}"
    for package, inside in packages.items():
        if len({Path(file.name).parent for file in inside}) > 1:
            yield f"PACKAGE_SAME_DIRECTORY {package}"
        for option in SAME_IN_A_PACKAGE:
            if len({getattr(file.options, option) for file in inside}) > 1:
                yield f"PACKAGE_SAME_{option.upper()} {package}"
        reached, todo = set(), list(imports[package])
        while todo:
            if (one := todo.pop()) not in reached:
                reached.add(one)
                todo += imports[one]
        if package in reached:
            yield f"PACKAGE_NO_IMPORT_CYCLE {package}"


def _of_file(file: FileDescriptorProto, source: str) -> Iterator[str]:
    path = Path(file.name)
    if not file.package:
        yield f"PACKAGE_DEFINED {file.name}"
    else:
        if file.package != ".".join(path.parts[:-1]):
            yield f"PACKAGE_DIRECTORY_MATCH {file.package}"
        if not all(re.fullmatch(SNAKE, part) for part in file.package.split(".")):
            yield f"PACKAGE_LOWER_SNAKE_CASE {file.package}"
        if not re.fullmatch(VERSION, file.package.rpartition(".")[2]):
            yield f"PACKAGE_VERSION_SUFFIX {file.package}"
    if not re.fullmatch(SNAKE, path.stem):
        yield f"FILE_LOWER_SNAKE_CASE {file.name}"
    if not re.search(r"^(syntax|edition)\s*=", source, re.MULTILINE):
        yield f"SYNTAX_SPECIFIED {file.name}"
    if file.public_dependency:
        yield f"IMPORT_NO_PUBLIC {file.name}"
    yield from (f"IMPORT_USED {file.dependency[index]}" for index in _unused(file))
    for enum in file.enum_type:
        yield from _of_enum(enum)
    for message in file.message_type:
        yield from _of_message(message)
    yield from _of_services(file)


def _unused(file: FileDescriptorProto) -> list[int]:
    """Imports none of whose package's names are used; exact enough while each package has one file."""
    kinds = [field.type_name for message in file.message_type for field in _fields(message)]
    kinds += [kind for rpc in _rpcs(file) for kind in (rpc.input_type, rpc.output_type)]
    folders = ["." + ".".join(Path(name).parts[:-1]) + "." for name in file.dependency]
    return [
        index
        for index, prefix in enumerate(folders)
        if index not in file.public_dependency and not any(kind.startswith(prefix) for kind in kinds)
    ]


def _fields(message: DescriptorProto) -> Iterator[FieldDescriptorProto]:
    yield from message.field
    for nested in message.nested_type:
        yield from _fields(nested)


def _rpcs(file: FileDescriptorProto) -> Iterator[MethodDescriptorProto]:
    return (rpc for service in file.service for rpc in service.method)


def _of_enum(enum: EnumDescriptorProto) -> Iterator[str]:
    if not re.fullmatch(PASCAL, enum.name):
        yield f"ENUM_PASCAL_CASE {enum.name}"
    if enum.options.allow_alias:
        yield f"ENUM_NO_ALLOW_ALIAS {enum.name}"
    if enum.value[0].number:
        yield f"ENUM_FIRST_VALUE_ZERO {enum.name}"
    prefix = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", enum.name).upper() + "_"
    for value in enum.value:
        if not re.fullmatch(UPPER_SNAKE, value.name):
            yield f"ENUM_VALUE_UPPER_SNAKE_CASE {value.name}"
        if not value.name.startswith(prefix):
            yield f"ENUM_VALUE_PREFIX {value.name}"
        if not value.number and not value.name.endswith("_UNSPECIFIED"):
            yield f"ENUM_ZERO_VALUE_SUFFIX {value.name}"


def _of_message(message: DescriptorProto) -> Iterator[str]:
    if message.options.map_entry:
        return
    if not re.fullmatch(PASCAL, message.name):
        yield f"MESSAGE_PASCAL_CASE {message.name}"
    for field in message.field:
        if not re.fullmatch(SNAKE, field.name):
            yield f"FIELD_LOWER_SNAKE_CASE {message.name}.{field.name}"
        if field.label == FieldDescriptorProto.LABEL_REQUIRED:
            yield f"FIELD_NOT_REQUIRED {message.name}.{field.name}"
    for oneof in message.oneof_decl:
        if not oneof.name.startswith("_") and not re.fullmatch(SNAKE, oneof.name):
            yield f"ONEOF_LOWER_SNAKE_CASE {message.name}.{oneof.name}"
    for nested in message.nested_type:
        yield from _of_message(nested)
    for enum in message.enum_type:
        yield from _of_enum(enum)


def _of_services(file: FileDescriptorProto) -> Iterator[str]:
    for service in file.service:
        if not re.fullmatch(PASCAL, service.name):
            yield f"SERVICE_PASCAL_CASE {service.name}"
        if not service.name.endswith("Service"):
            yield f"SERVICE_SUFFIX {service.name}"
        for rpc in service.method:
            if not re.fullmatch(PASCAL, rpc.name):
                yield f"RPC_PASCAL_CASE {rpc.name}"
            for kind, word in ((rpc.input_type, "Request"), (rpc.output_type, "Response")):
                if kind.rpartition(".")[2] not in (f"{rpc.name}{word}", f"{service.name}{rpc.name}{word}"):
                    yield f"RPC_{word.upper()}_STANDARD_NAME {rpc.name}"


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> list[FileDescriptorProto]:
    return compiled(PROTO, tmp_path_factory.mktemp("wire") / "set")


def test_the_wire_keeps_to_the_rules(wire: list[FileDescriptorProto]) -> None:
    assert {file.package for file in wire} == {"kinochrome.v1", "kinochrome.onnx.v1"}
    assert list(faults(wire, PROTO)) == []


FAULTY = """
    syntax = "proto2";
    package faulty.wire;
    import public "other/v1/other.proto";
    import "third/v1/third.proto";

    service Paint {
      rpc paint_it(Order) returns (Order);
    }
    message Order {
      required string Name = 1;
      oneof TheKind { string a = 2; }
      enum tone { WARM = 1; COLD = 0; }
    }
    message bad_name {}
    enum Mood {
      option allow_alias = true;
      MOOD_NONE = 0;
      MOOD_other = 0;
    }
"""
OTHER = """
    package other.v1;
    message Thing {}
"""
THIRD = """
    syntax = "proto3";
    package third.v1;
    message Thing {}
"""
FAULTY_FILES = {"faulty/BadFile.proto": FAULTY, "other/v1/other.proto": OTHER, "third/v1/third.proto": THIRD}


def test_the_rules_find_what_breaks_them(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The same names that `buf lint` prints for these files."""
    for name, text in FAULTY_FILES.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(textwrap.dedent(text))
    found = {fault.split()[0] for fault in faults(compiled(tmp_path, tmp_path / "set"), tmp_path)}
    assert found == {
        "ENUM_FIRST_VALUE_ZERO",
        "ENUM_NO_ALLOW_ALIAS",
        "ENUM_PASCAL_CASE",
        "ENUM_VALUE_PREFIX",
        "ENUM_VALUE_UPPER_SNAKE_CASE",
        "ENUM_ZERO_VALUE_SUFFIX",
        "FIELD_LOWER_SNAKE_CASE",
        "FIELD_NOT_REQUIRED",
        "FILE_LOWER_SNAKE_CASE",
        "IMPORT_NO_PUBLIC",
        "IMPORT_USED",
        "MESSAGE_PASCAL_CASE",
        "ONEOF_LOWER_SNAKE_CASE",
        "PACKAGE_DIRECTORY_MATCH",
        "PACKAGE_VERSION_SUFFIX",
        "RPC_PASCAL_CASE",
        "RPC_REQUEST_RESPONSE_UNIQUE",
        "RPC_REQUEST_STANDARD_NAME",
        "RPC_RESPONSE_STANDARD_NAME",
        "SERVICE_SUFFIX",
        "SYNTAX_SPECIFIED",
    }
    capfd.readouterr()  # protoc warns of what is wrong by design


def test_all_of_the_wire_is_documented(wire: list[FileDescriptorProto]) -> None:
    """buf's COMMENTS category, for the package that others write clients of: every message, field, enum, value, service
    and call has a comment of its own before it."""
    (file,) = [file for file in wire if file.package == "kinochrome.v1"]
    said = {tuple(place.path) for place in file.source_code_info.location if place.leading_comments.strip()}
    # Paths are of the numbers in descriptor.proto: messages are 4, their fields 2, enums 5, services 6.
    wanted: dict[tuple[int, ...], str] = {(4, i): kind.name for i, kind in enumerate(file.message_type)}
    wanted |= {(5, i): kind.name for i, kind in enumerate(file.enum_type)}
    wanted |= {(6, i): kind.name for i, kind in enumerate(file.service)}
    parts: dict[tuple[int, ...], str] = {}
    for i, message in enumerate(file.message_type):
        parts |= {(4, i, 2, j): f"{message.name}.{field.name}" for j, field in enumerate(message.field)}
    for i, enum in enumerate(file.enum_type):
        parts |= {(5, i, 2, j): value.name for j, value in enumerate(enum.value)}
    for i, service in enumerate(file.service):
        parts |= {(6, i, 2, j): rpc.name for j, rpc in enumerate(service.method)}
    assert len(wanted) > 30 and len(parts) > 80
    assert [name for path, name in {**wanted, **parts}.items() if path not in said] == []
