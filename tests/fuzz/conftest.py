def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="A thousand cases instead of a sample; in minutes.")
    parser.addoption("--seed", type=int, default=0, help="Of all cases.")
