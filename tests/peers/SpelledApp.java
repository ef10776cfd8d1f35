import java.io.IOException;
import java.nio.file.Files;
import java.text.Normalizer;
import java.util.List;
import java.util.Locale;
import java.util.regex.Pattern;

import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import org.apache.catalina.connector.Connector;
import org.apache.catalina.startup.Tomcat;

/**
 * A servlet of Apache Tomcat that reads different spellings of a path as one path.
 *
 * <p>Listens on a free port of 127.0.0.1 and prints {@code ready URL}. The answer to a request for {@code /kiosk} or
 * {@code /café}, or for a path below them, is {@code protected}: if a regular expression with {@code (?iu)} finds the
 * path, or if {@code equalsIgnoreCase} finds its first segment, as it is, without white space, or in a normal form. The
 * answer to every other request is {@code other}.
 */
public class SpelledApp {
    private static final List<String> NAMES = List.of("kiosk", "caf\u00e9");
    private static final Pattern PATTERN = Pattern.compile("(?iu)/(" + String.join("|", NAMES) + ")(/.*)?");

    public static void main(String[] arguments) throws Exception {
        var tomcat = new Tomcat();
        tomcat.setBaseDir(Files.createTempDirectory("paths").toString());
        var connector = new Connector();
        connector.setPort(0);
        connector.setProperty("address", "127.0.0.1");
        connector.setURIEncoding("UTF-8");
        tomcat.setConnector(connector);
        var context = tomcat.addContext("", null);
        Tomcat.addServlet(context, "all", new HttpServlet() {
            @Override
            protected void doGet(HttpServletRequest request, HttpServletResponse response) throws IOException {
                response.getWriter().write(isProtected(request.getServletPath()) ? "protected" : "other");
            }
        });
        context.addServletMappingDecoded("/", "all");
        tomcat.start();
        System.out.println("ready http://127.0.0.1:" + connector.getLocalPort());
        System.out.flush();
        tomcat.getServer().await();
    }

    private static boolean isProtected(String path) {
        var segments = path.split("/");
        var first = segments.length > 1 ? segments[1] : "";
        var readings = List.of(
                first,
                first.strip(),
                first.toUpperCase(Locale.ROOT),
                first.toLowerCase(Locale.forLanguageTag("tr")),
                Normalizer.normalize(first, Normalizer.Form.NFC),
                Normalizer.normalize(first, Normalizer.Form.NFKC).strip());
        return PATTERN.matcher(path).matches()
                || readings.stream().anyMatch(reading -> NAMES.stream().anyMatch(reading::equalsIgnoreCase));
    }
}
