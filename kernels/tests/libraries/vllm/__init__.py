__version__ = "0.stub"
