from longctx.memory import sizes


def test_readable():
    assert sizes.readable(2_810_000_000) == "2.81 GB" and sizes.readable(3_100_000) == "3.1 MB"
    assert sizes.readable(9 * 10**15) == "9,000,000.00 GB"


def test_free_memory_is_below_that_of_the_machine():
    free = sizes.free_memory()
    assert free is None or 2**20 < free < 2**50


def test_free_memory_knows_the_limit_of_a_container(tmp_path, monkeypatch):
    monkeypatch.setattr(sizes, "_CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    unlimited = sizes.free_memory()
    (tmp_path / "memory.max").write_text("5000\n")
    assert sizes.free_memory() == 4000
    (tmp_path / "memory.stat").write_text("anon 700\ninactive_file 200\nactive_file 100\nslab 5\n")
    assert sizes.free_memory() == 4300
    assert unlimited is None or unlimited > 4000
