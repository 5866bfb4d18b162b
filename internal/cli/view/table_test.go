package view

import (
	"bytes"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	"k8s.io/cli-runtime/pkg/printers"
)

func TestFit(t *testing.T) {
	table := NewTable("NAME", "READY", "+WIDE", "ROLLOUT", "MESSAGE")
	AddRow(table, "bookinfo-custom-filter", "True", "wide", "Complete", "revision 09c950b2 on 6 of 6 workloads")
	for _, row := range []struct {
		name  string
		width int
		want  []string
	}{
		{"leaves a table alone without a width", 0, []string{"bookinfo-custom-filter", "True", "wide", "Complete", "revision 09c950b2 on 6 of 6 workloads"}},
		{"only leaves out wide columns where all fits", 200, []string{"bookinfo-custom-filter", "True", "Complete", "revision 09c950b2 on 6 of 6 workloads"}},
		{"cuts the last column", 60, []string{"bookinfo-custom-filter", "True", "Complete", "revision 09c950…"}},
		{"drops a column of which too little is left", 50, []string{"bookinfo-custom-filter", "True", "Complete"}},
		{"drops several", 40, []string{"bookinfo-custom-filter", "True"}},
		{"cuts the first column", 10, []string{"bookinfo-…"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			fitted := Fit(table, row.width)
			var cells []string
			for _, cell := range fitted.Rows[0].Cells {
				cells = append(cells, cell.(string))
			}
			g.Expect(cells).To(Equal(row.want))
			g.Expect(fitted.ColumnDefinitions).To(HaveLen(len(row.want)))
			if row.width > 0 {
				var out bytes.Buffer
				g.Expect(printers.NewTablePrinter(printers.PrintOptions{}).PrintObj(fitted, &out)).To(Succeed())
				for line := range strings.Lines(out.String()) {
					g.Expect(len([]rune(strings.TrimRight(line, " \n")))).To(BeNumerically("<=", row.width))
				}
			}
			g.Expect(table.Rows[0].Cells).To(HaveLen(5), "the table that was given stays as it is")
		})
	}
}
