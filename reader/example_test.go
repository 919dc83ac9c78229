package reader_test

func prepareExamples(*mainTB) {}
