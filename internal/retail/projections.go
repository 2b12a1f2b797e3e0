package retail

import (
	"slices"
	"strconv"
	"time"

	"github.com/fairlead-dev/fairlead/projection"
)

// A Line is the payload of every event of the data set.
type Line struct {
	Product        string `json:"product"`
	Description    string `json:"description,omitempty"`
	Quantity       int64  `json:"quantity"`
	UnitPriceMilli int64  `json:"unit_price_milli"`
	Customer       string `json:"customer,omitempty"`
}

// The event types.
const (
	LineAdded     = "OrderLineAdded"
	LineCancelled = "OrderLineCancelled"
	Stock         = "StockAdjusted"
	BadDebt       = "BadDebtAdjusted"
)

// line is what the projections read of a Line.
type line struct {
	Product        string `json:"product"`
	Quantity       int64  `json:"quantity"`
	UnitPriceMilli int64  `json:"unit_price_milli"`
	Customer       string `json:"customer"`
}

type lineEvent = projection.Event[line]

// Sums are what all documents count.
type Sums struct {
	Lines       int64 `json:"lines"`
	Units       int64 `json:"units"`
	AmountMilli int64 `json:"amount_milli"`
}

func (s *Sums) add(e lineEvent) {
	s.Lines++
	s.Units += e.Data.Quantity
	s.AmountMilli += e.Data.Quantity * e.Data.UnitPriceMilli
}

// An Order is the document of an invoice.
type Order struct {
	Sums
	LastAt   time.Time `json:"last_at"`
	Customer string    `json:"customer"`
}

// A Product is the document of a stock code.
type Product struct{ Sums }

// A Customer is the document of a customer.
type Customer struct {
	Sums
	Streams int64     `json:"streams"`
	FirstAt time.Time `json:"first_at"`
	LastAt  time.Time `json:"last_at"`
}

// A Month is the document of a month of a shop.
type Month struct {
	Sums
	Streams int64 `json:"streams"`
}

// A Tenant is the document of a shop.
type Tenant struct {
	Sums
	Streams        int64 `json:"streams"`
	CancelledLines int64 `json:"cancelled_lines"`
	Customers      Set   `json:"customers"`
	Products       Set   `json:"products"`
}

// A Set holds distinct strings in the order of their arrival. Its JSON is an
// array, which costs nothing to keep in order while the set is in memory.
type Set struct {
	list []string
	has  map[string]bool
}

// Add adds s, unless it is there or "".
func (s *Set) Add(v string) {
	if v == "" || s.has[v] {
		return
	}
	if s.has == nil {
		s.has = map[string]bool{}
	}
	s.has[v] = true
	s.list = append(s.list, v)
}

// Len returns how many strings there are.
func (s *Set) Len() int { return len(s.list) }

// The projections. An invoice has one customer at most, and one month, so its
// first event counts it for both.
var (
	Orders = define("orders", nil, func(o *Order, e lineEvent) error {
		o.add(e)
		o.LastAt = e.OccurredAt
		if e.Data.Customer != "" {
			o.Customer = e.Data.Customer
		}
		return nil
	})

	Products = define("products", func(e lineEvent) string { return e.Data.Product }, func(p *Product, e lineEvent) error {
		p.add(e)
		return nil
	})

	Customers = define("customers", func(e lineEvent) string { return e.Data.Customer }, func(c *Customer, e lineEvent) error {
		c.add(e)
		if e.Version == 1 {
			c.Streams++
		}
		if c.FirstAt.IsZero() {
			c.FirstAt = e.OccurredAt
		}
		c.LastAt = e.OccurredAt
		return nil
	})

	Months = define("months", month, func(m *Month, e lineEvent) error {
		m.add(e)
		if e.Version == 1 {
			m.Streams++
		}
		return nil
	})

	Tenants = define("tenants", func(e lineEvent) string { return e.Tenant }, func(t *Tenant, e lineEvent) error {
		t.add(e)
		if e.Version == 1 {
			t.Streams++
		}
		if e.Type == LineCancelled {
			t.CancelledLines++
		}
		t.Customers.Add(e.Data.Customer)
		t.Products.Add(e.Data.Product)
		return nil
	})
)

func month(e lineEvent) string { return e.OccurredAt.UTC().Format("2006-01") }

// define handles all event types with f.
func define[S any](name string, by func(lineEvent) string, f func(*S, lineEvent) error) *projection.Projection[S] {
	var parts []projection.Part[S]
	for _, typ := range []string{LineAdded, LineCancelled, Stock, BadDebt} {
		h := projection.On(typ, f)
		if by != nil {
			h.By(by)
		}
		parts = append(parts, h)
	}
	return projection.New(name, parts...)
}

// Definitions are the five projections, in the order of the demo's tables.
func Definitions() []projection.Definition {
	return []projection.Definition{Orders, Products, Customers, Months, Tenants}
}

// The rows are the columns of the expected results, but for tenant and id.

func (s Sums) row() []string {
	return []string{num(s.Lines), num(s.Units), num(s.AmountMilli)}
}

func (o *Order) row() []string { return append(o.Sums.row(), at(o.LastAt), o.Customer) }
func (c *Customer) row() []string {
	return append(withStreams(c.Sums, c.Streams), at(c.FirstAt), at(c.LastAt))
}
func (m *Month) row() []string { return withStreams(m.Sums, m.Streams) }
func (t *Tenant) row() []string {
	return append(withStreams(t.Sums, t.Streams), num(int64(t.Customers.Len())), num(int64(t.Products.Len())), num(t.CancelledLines))
}

// withStreams puts the number of streams after that of the lines.
func withStreams(s Sums, streams int64) []string { return slices.Insert(s.row(), 1, num(streams)) }

func num(n int64) string { return strconv.FormatInt(n, 10) }

func at(t time.Time) string { return t.UTC().Format(time.RFC3339) }
